"""Same or not: figures of pairs against plain sorts in float64 and scikit-learn, drawings of labels against counting
each pair anew, and what is refused."""

import json
import math
import re

import numpy as np
import pytest
import torch
from runs import as_line, run

from core.errors import InputError
from data.make_pairs import draw_pairs, write_pairs
from data.pair_files import RowsByPath, read_pairs, read_templates
from data.records import Records
from retrieval.exact import ExactScores
from retrieval.metrics.calibration import Calibration, calibrate, reliability
from retrieval.metrics.folds import best_accuracy_threshold, check_folds, fold_accuracies
from retrieval.metrics.open_set import draw_unknown, identified, open_set
from retrieval.metrics.verification import (
    FARS,
    allowed_accepts,
    check_fars,
    equal_error,
    listed_histogram,
    verify_all_pairs,
    verify_listed_pairs,
)
from retrieval.query_gallery import QueryGallery
from retrieval.templates import mean_embeddings

COUNT = 240


def data(count=COUNT, labels=30, width=6, noise=1.0, seed=0):
    """(embeddings, labels) of clouds that overlap."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, labels, count)
    centres = rng.standard_normal((labels, width))
    return (centres[codes] + noise * rng.standard_normal((count, width))).astype(np.float32), codes


def scores_of(embeddings, distance="cosine"):
    """(N, N) float32 of float64."""
    rows = embeddings.astype(np.float64)
    if distance == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows @ rows.T).astype(np.float32)
    return -((rows[:, None] - rows[None]) ** 2).sum(2).astype(np.float32)


def plain(scores, is_same, far):
    """(TAR, FAR) by a sort: as many negatives accepted as the FAR allows, and of equal ones all or none."""
    negatives = np.sort(scores[~is_same])[::-1]
    refused = negatives[allowed_accepts(far, len(negatives))]
    return (scores[is_same] > refused).mean(), (negatives > refused).mean()


def pairs_of(embeddings, codes, distance="cosine"):
    left, right = np.triu_indices(len(codes), 1)
    return scores_of(embeddings, distance)[left, right], codes[left] == codes[right], left, right


@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
@pytest.mark.parametrize("memory", [2**14, 2**24])
def test_all_pairs_are_those_of_a_sort(distance, memory):
    embeddings, codes = data()
    figures = verify_all_pairs(QueryGallery.of(embeddings, codes), FARS, (), 0, distance=distance, memory=memory)
    scores, is_same, left, right = pairs_of(embeddings, codes, distance)
    pairs = torch.from_numpy(left), torch.from_numpy(right)
    ours = ExactScores(QueryGallery.of(embeddings), distance).exact_pairs(*pairs).numpy()
    assert figures.positives == is_same.sum() and figures.negatives == (~is_same).sum()
    assert [point.wished for point in figures.points] == [0.1, 0.01, 0.001, 0.0001]
    assert figures.left_out == (1e-5, 1e-6) and figures.labels == 30 and figures.resamples == 0
    for point in figures.points:
        tar, far = plain(scores, is_same, point.wished)
        assert (point.tar.value, point.far) == (tar, far) and point.tar.interval is None
        assert point.false_accepts == round(far * figures.negatives)
        # Whoever compares the scores of a search with the threshold gets these very rates.
        assert (ours[is_same] >= point.threshold).mean() == tar
        assert (ours[~is_same] >= point.threshold).mean() == far


def test_as_scikit_learns_curves():
    metrics = pytest.importorskip("sklearn.metrics")
    embeddings, codes = data(noise=0.7)
    figures = verify_all_pairs(QueryGallery.of(embeddings, codes), resamples=0)
    scores, is_same, _, _ = pairs_of(embeddings, codes)
    far, tar, _ = metrics.roc_curve(is_same, scores, drop_intermediate=False)
    for point in figures.points:
        assert point.tar.value == pytest.approx(tar[np.flatnonzero(far <= point.wished * (1 + 1e-12))[-1]], rel=1e-12)
    # Where 1 - TAR meets FAR on straight lines between the points.
    surplus = 1 - tar - far
    behind = np.flatnonzero(surplus <= 0)[0]
    share = surplus[behind - 1] / (surplus[behind - 1] - surplus[behind])
    assert figures.eer.value == pytest.approx(far[behind - 1] + share * (far[behind] - far[behind - 1]), rel=1e-9)
    false_positive, false_negative, thresholds = metrics.det_curve(is_same, scores)
    # The threshold is the first score with FAR no less than 1 - TAR, to the rounding of our product in float64.
    ordered = np.sort(np.unique(scores))[::-1]
    crossed = [(scores[~is_same] >= score).mean() >= (scores[is_same] < score).mean() for score in ordered]
    assert figures.eer_threshold == pytest.approx(ordered[np.argmax(crossed)], abs=1e-6)
    nearest = np.abs(thresholds - figures.eer_threshold).argmin()
    assert abs(false_positive[nearest] - false_negative[nearest]) < 3 / is_same.sum()


def test_equal_scores_are_accepted_together():
    """Few distinct embeddings, so that a threshold falls among many equal scores."""
    rng = np.random.default_rng(0)
    embeddings, codes = rng.integers(-1, 2, (150, 3)).astype(np.float32), rng.integers(0, 12, 150)
    embeddings[~embeddings.any(1)] = 1
    figures = verify_all_pairs(QueryGallery.of(embeddings, codes), (0.3, 0.1, 0.03), (0.5,), 0)
    scores, is_same, left, right = pairs_of(embeddings, codes)
    scores = np.round(scores, 5)  # the product of float64 differs in its last digits
    for point in figures.points:
        assert (point.tar.value, point.far) == plain(scores, is_same, point.wished)
    assert figures.at[0].far.value == (scores[~is_same] >= 0.5).mean()


def test_one_embedding_for_all():
    figures = verify_all_pairs(QueryGallery.of(np.ones((20, 4), np.float32), np.arange(20) % 4), (0.1,), (), 20)
    assert figures.points[0].tar.value == 0 and figures.points[0].far == 0
    assert figures.eer.value == pytest.approx(0.5) and figures.eer.interval == pytest.approx((0.5, 0.5))


def test_apart_labels_have_no_error():
    embeddings = np.repeat(np.eye(5, dtype=np.float32), 4, axis=0)
    figures = verify_all_pairs(QueryGallery.of(embeddings, np.arange(20) // 4), resamples=50)
    assert figures.eer.value == 0 and figures.eer.interval == (0, 0)
    assert all(point.tar.value == 1 and point.tar.interval == (1, 1) for point in figures.points)


def test_queries_galleries_and_sequences():
    embeddings, codes = data()
    rng = np.random.default_rng(1)
    is_query, is_gallery = rng.random(COUNT) < 0.5, rng.random(COUNT) < 0.6
    sequences = rng.integers(0, 20, COUNT)
    query_gallery = QueryGallery.of(embeddings, codes, is_query, is_gallery, sequences)
    figures = verify_all_pairs(query_gallery, (0.1, 0.01), (0.4,), 30)
    left, right = np.meshgrid(np.flatnonzero(is_query), np.flatnonzero(is_gallery), indexing="ij")
    counts = (left != right) & (sequences[left] != sequences[right])
    left, right = left[counts], right[counts]
    scores, is_same = scores_of(embeddings)[left, right], codes[left] == codes[right]
    assert figures.negatives == (~is_same).sum()
    for point in figures.points:
        assert (point.tar.value, point.far) == plain(scores, is_same, point.wished)
    assert figures.at[0].tar.value == (scores[is_same] >= np.float32(0.4)).mean()
    listed = verify_listed_pairs(scores, is_same, codes[left], codes[right], (0.1, 0.01), (0.4,), 30)
    assert listed.at[0].tar.interval == pytest.approx(figures.at[0].tar.interval, rel=1e-6)
    assert listed.at[0].far.interval == pytest.approx(figures.at[0].far.interval, rel=1e-6)


def drawn(codes, left, right, resamples, seed):
    """(P, B): how often each pair counts in each drawing, by counting labels anew."""
    labels, numbers = np.unique(codes, return_inverse=True)
    weights = []
    for draw in np.random.default_rng(seed).multinomial(len(labels), [1 / len(labels)] * len(labels), resamples):
        product = draw[numbers[left]] * draw[numbers[right]]
        weights.append(np.where(numbers[left] == numbers[right], draw[numbers[left]], product))
    return np.array(weights).T


@pytest.mark.parametrize("memory", [2**14, 2**24])
def test_intervals_are_those_of_counting_each_pair_anew(memory):
    embeddings, codes = data(labels=15)
    thresholds = (-0.2, 0.35, 0.8, 0.95)
    figures = verify_all_pairs(QueryGallery.of(embeddings, codes), FARS, thresholds, 60, 5, memory=memory)
    scores, is_same, left, right = pairs_of(embeddings, codes)
    weights = drawn(codes, left, right, 60, 5)
    for at in figures.at:
        for rate, mask in ((at.far, ~is_same), (at.tar, is_same)):
            rates = weights[mask & (scores >= at.threshold)].sum(0) / weights[mask].sum(0)
            assert rate.interval == pytest.approx(np.quantile(rates, [0.025, 0.975]), rel=1e-5, abs=1e-9)
            assert rate.value == (scores[mask] >= np.float32(at.threshold)).mean()

    # TAR at FAR, with the threshold of each drawing found among all pairs, not between levels.
    order = np.argsort(-scores, kind="stable")
    accepted = weights[order] * ~is_same[order, None]
    right_ones = weights[order] * is_same[order, None]
    for point in figures.points[:2]:
        tars = []
        for column in range(60):
            far = accepted[:, column].cumsum() / accepted[:, column].sum()
            tar = right_ones[:, column].cumsum() / right_ones[:, column].sum()
            tars.append(np.interp(point.wished, far, tar))
        assert point.tar.interval == pytest.approx(np.quantile(tars, [0.025, 0.975]), abs=0.01)


def test_listed_pairs_are_as_all_pairs():
    embeddings, codes = data()
    scores, is_same, left, right = pairs_of(embeddings, codes)
    whole = verify_all_pairs(QueryGallery.of(embeddings, codes), thresholds=(0.5,), resamples=40)
    listed = verify_listed_pairs(scores, is_same, codes[left], codes[right], thresholds=(0.5,), resamples=40)
    assert (listed.positives, listed.negatives, listed.labels) == (whole.positives, whole.negatives, whole.labels)
    assert listed.eer.value == pytest.approx(whole.eer.value, rel=1e-12)
    for one, other in zip(listed.points, whole.points, strict=True):
        assert (one.tar.value, one.far, one.false_accepts) == (other.tar.value, other.far, other.false_accepts)


def test_the_interval_of_independent_labels_is_the_binomial_one():
    """Two images a label, so one positive pair each: TAR is a share of C labels, with the spread of one."""
    labels = 2000
    rng = np.random.default_rng(0)
    is_same = np.repeat([True, False], [labels, 2 * labels])
    left = np.concatenate([np.arange(labels), np.arange(2 * labels) % labels])
    right = np.where(is_same, left, (left + 1 + rng.integers(0, labels - 1, 3 * labels)) % labels)
    scores = rng.random(3 * labels)
    figures = verify_listed_pairs(scores, is_same, left, right, (0.1,), (0.7,), 2000)
    low, high = figures.at[0].tar.interval
    share = figures.at[0].tar.value
    expected = 2 * 1.96 * math.sqrt(share * (1 - share) / labels)
    assert high - low == pytest.approx(expected, rel=0.1) and low < share < high


def test_the_same_seed_draws_the_same():
    query_gallery = QueryGallery.of(*data())
    one, other, another = (verify_all_pairs(query_gallery, resamples=20, seed=seed).eer for seed in (0, 0, 1))
    assert one == other != another


def test_the_equal_error_of_known_curves():
    assert equal_error(np.array([0.0, 0.2, 1.0]), np.array([0.5, 0.8, 1.0])) == (pytest.approx(0.2), 1)
    # Half-way between (0.1, 0.7) and (0.3, 0.9) FAR and 1 - TAR are 0.2.
    assert equal_error(np.array([0.1, 0.3]), np.array([0.7, 0.9]))[0] == pytest.approx(0.2)


@pytest.mark.parametrize("far, negatives, count", [(0.29, 100, 29), (1e-3, 1000, 1), (1e-3, 999, 0), (0.1, 30, 3)])
def test_a_far_allows_whole_pairs(far, negatives, count):
    assert allowed_accepts(far, negatives) == count


def test_rates_that_cannot_be():
    with pytest.raises(InputError, match="a FAR of 1e-06 of 1,000 negative pairs is less than one pair; .* is 0.001"):
        check_fars((0.1, 1e-6), 1000)
    with pytest.raises(InputError, match="a FAR of 0 is none"):
        check_fars((0,), 1000)
    figures = verify_all_pairs(QueryGallery.of(*data(40)), resamples=0)
    with pytest.raises(InputError, match="less than one pair"):
        figures.point(1e-6)


@pytest.mark.parametrize("labels", [[0] * 6, [0, 1, 2, 3, 4, 5]])
def test_pairs_of_one_kind_only_are_refused(labels):
    with pytest.raises(InputError, match="needs pairs of one label and of two"):
        verify_all_pairs(QueryGallery.of(np.eye(6, dtype=np.float32), labels))


# Folds.


def test_folds_as_trying_every_threshold():
    rng = np.random.default_rng(0)
    is_same = rng.random(300) < 0.5
    scores = np.round(rng.standard_normal(300) + 1.5 * is_same, 1)
    folds = np.arange(300) % 10
    found = fold_accuracies(scores, is_same, folds)
    accuracies = []
    for fold in range(10):
        others, tested = folds != fold, folds == fold
        candidates = np.append(np.unique(scores[others]), np.inf)
        right = [((scores[others] >= candidate) == is_same[others]).mean() for candidate in candidates]
        threshold = candidates[np.flatnonzero(np.array(right) == max(right))[-1]]
        accuracies.append(((scores[tested] >= threshold) == is_same[tested]).mean())
    assert found.accuracies == pytest.approx(accuracies) and found.mean == pytest.approx(np.mean(accuracies))
    assert found.standard_error == pytest.approx(np.sqrt(np.var(accuracies, ddof=1) / 10))


def test_to_accept_none_may_be_best():
    threshold = best_accuracy_threshold(np.array([0.9, 0.1]), np.array([False, False]))
    assert 0.9 < threshold < 0.91
    assert best_accuracy_threshold(np.array([0.9, 0.1, 0.2]), np.array([True, False, True])) == 0.2


def test_folds_that_cannot_be():
    is_same = np.array([True, False, True, True])
    with pytest.raises(InputError, match="fold 'b': all of its 2 pairs are same; a fold needs pairs of both kinds"):
        check_folds(is_same, np.array(["a", "a", "b", "b"]))
    with pytest.raises(InputError, match="needs? two folds or more; the only one is 'a'"):
        check_folds(is_same, np.array(["a"] * 4))


# Open set.


def test_open_set_as_going_through_the_queries():
    embeddings, codes = data(labels=20, noise=0.8)
    unknown = [1, 4, 7, 19]
    found = open_set(QueryGallery.of(embeddings, codes), torch.tensor(unknown), (0.2, 0.05, 1e-6), 50)
    scores = scores_of(embeddings)
    np.fill_diagonal(scores, -np.inf)
    is_known = ~np.isin(codes, unknown)
    scores[:, ~is_known] = -np.inf
    best, nearest = scores.max(1), scores.argmax(1)
    mates = np.array([(is_known & (codes == code)).sum() for code in codes]) - is_known
    assert (found.mated, found.unmated) == ((mates > 0).sum(), (mates == 0).sum()) and found.left_out == (1e-6,)
    assert found.gallery == is_known.sum() and found.unknown_labels == 4
    for point in found.points:
        strangers = np.sort(best[mates == 0])[::-1]
        refused = strangers[allowed_accepts(point.wished, len(strangers))]
        is_hit = (best > refused) & (codes[nearest] == codes)
        assert point.fnir.value == pytest.approx(1 - is_hit[mates > 0].mean(), abs=1e-12)
        assert point.fpir == (strangers > refused).mean() <= point.wished
        assert point.fnir.interval[0] <= point.fnir.value <= point.fnir.interval[1]


def test_a_perfect_open_set():
    scores = np.array([0.9, 0.9, 0.8, 0.1, 0.2, 0.3, 0.1, 0.2, 0.2, 0.2])
    is_mated = np.arange(10) < 3
    found = identified(scores, is_mated, is_mated, np.arange(10), (0.2,), 30, 0, 3, 7)
    assert found.points[0].fnir.value == 0 and found.points[0].fnir.interval == (0, 0)


def test_open_sets_that_cannot_be():
    query_gallery = QueryGallery.of(*data(labels=4))
    with pytest.raises(InputError, match="all of it is of unknown ones"):
        open_set(query_gallery, torch.arange(4))
    with pytest.raises(InputError, match="240 have one and 0 have not"):
        open_set(query_gallery, torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match="two labels or more"):
        draw_unknown(["a", "a"], 0.5, 0)
    assert draw_unknown(list("abcd"), 0.5, 3) == draw_unknown(list("dcba"), 0.5, 3)
    assert len(draw_unknown(list("abcd"), 0.99, 0)) == 3 and len(draw_unknown(list("abcd"), 0.01, 0)) == 1


# Calibration.


def test_calibration_as_scikit_learns_of_all_pairs():
    isotonic = pytest.importorskip("sklearn.isotonic")
    embeddings, codes = data(120)
    scores, is_same, _, _ = pairs_of(embeddings, codes)
    found = calibrate(listed_histogram(scores.astype(np.float64), is_same))
    fitted = isotonic.IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, is_same)
    _, stretch, sizes = np.unique(fitted, return_inverse=True, return_counts=True)
    doubtful = (fitted * sizes[stretch] + 2 * is_same.mean()) / (sizes[stretch] + 2)
    expected = isotonic.IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, doubtful)
    # Bins are 1/32768 wide: between knots that stand so close the curve is steep, so most scores are compared.
    difference = np.abs(found.probability(scores) - expected)
    assert np.median(difference) < 1e-3 and np.mean(difference) < 5e-3
    assert found.probabilities[-1] < 1
    assert (np.diff(found.probabilities) >= 0).all() and (np.diff(found.scores) > 0).all()
    assert found.odds == is_same.sum() / (~is_same).sum()
    # Isotonic regression keeps the mean, but for what is doubted.
    fit = reliability(listed_histogram(scores.astype(np.float64), is_same), found)
    assert sum(np.array(fit.pairs) * fit.predicted) == pytest.approx(is_same.sum(), rel=0.05)
    assert fit.brier < fit.brier_of_share and fit.ece < 0.01


def test_other_odds_are_those_of_more_negatives():
    """Ten times as many negative pairs of each score: one in two becomes one in eleven."""
    found = Calibration(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]), 0.1).with_odds(0.01)
    assert found.probabilities == pytest.approx([0, 1 / 11, 1])


def test_reliability_by_hand():
    scores = np.array([0.05, 0.05, 0.05, 0.95, 0.95])
    is_same = np.array([False, False, True, True, True])
    calibration = Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 1.0)
    fit = reliability(listed_histogram(scores, is_same), calibration)
    assert fit.brier == pytest.approx((2 * 0.05**2 + 0.95**2 + 2 * 0.05**2) / 5, rel=1e-3)
    assert fit.brier_of_share == pytest.approx(0.6 * 0.4)
    assert fit.ece == pytest.approx((3 * (1 / 3 - 0.05) + 2 * 0.05) / 5, rel=1e-3)
    assert fit.pairs == (3, 2) and fit.observed == pytest.approx((1 / 3, 1))


# Files of pairs and templates.


@pytest.fixture
def people():
    paths = [f"lfw/{name}/{name}_{number:04}.jpg" for name in ("Ann_A", "Bob_B", "Cy_C") for number in (1, 2, 3)]
    return Records("lfw", np.array(paths), np.repeat(["a", "b", "c"], 3), *np.ones((2, 9), bool))


LFW = "2\t1\nAnn_A\t1\t2\nAnn_A\t1\tBob_B\t3\nCy_C\t2\t3\nBob_B\t1\tCy_C\t1\n"


def test_pairs_of_lfw(people, tmp_path):
    (tmp_path / "pairs.txt").write_text(LFW)
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert pairs.is_same.tolist() == [True, False, True, False] and pairs.folds.tolist() == ["1", "1", "2", "2"]
    rows = RowsByPath(people)
    assert rows.rows(pairs.left, pairs.lines, pairs.source).tolist() == [0, 0, 7, 3]
    assert rows.rows(pairs.right, pairs.lines, pairs.source).tolist() == [1, 5, 8, 6]
    (tmp_path / "dev.txt").write_text("1\nAnn_A 1 2\nAnn_A 1 Bob_B 3\n")
    assert read_pairs(tmp_path / "dev.txt").folds is None


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_pairs_of_a_csv(people, tmp_path, delimiter):
    lines = [
        "path1,path2,same,fold",
        "Ann_A_0001.jpg,lfw/Ann_A/Ann_A_0002.jpg,1,x",
        "Bob_B_0001,Cy_C/Cy_C_0001,False,y",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines).replace(",", delimiter))
    pairs = read_pairs(tmp_path / "p.csv")
    assert pairs.is_same.tolist() == [True, False] and pairs.folds.tolist() == ["x", "y"]
    assert RowsByPath(people).rows(pairs.left, pairs.lines, "p.csv").tolist() == [0, 3]


def test_templates_are_means_of_unit_rows(people, tmp_path):
    lines = [
        "path,template,media",
        "Ann_A_0001.jpg,7,v",
        "Ann_A_0002.jpg,7,v",
        "Ann_A_0003.jpg,7,p",
        "Cy_C_0001.jpg,9,p",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "t.txt").write_text("Ann_A_0001.jpg 7 1\nAnn_A_0002.jpg 7 1\nAnn_A_0003.jpg 7 2\nCy_C_0001.jpg 9 2\n")
    embeddings = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = [(units[0] + units[1]) / 2 + units[2], units[6]]
    for name in ("t.csv", "t.txt"):
        templates = read_templates(tmp_path / name, people)
        found = mean_embeddings(embeddings[templates.rows], templates.numbers, templates.media)
        for row, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(row, other / np.linalg.norm(other), rtol=1e-5)
    without = mean_embeddings(embeddings[:3], np.zeros(3, int))
    np.testing.assert_allclose(without[0], units[:3].sum(0) / np.linalg.norm(units[:3].sum(0)), rtol=1e-5)


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        ("p.csv", "path1,path2,sam\na,b,1", r"p.csv:1: no column 'same' in .*Rename 'sam' if it is meant"),
        ("p.csv", "path1,path2,same\na,b,maybe", "p.csv:2: same is 'maybe'; it is 1 or 0"),
        ("p.csv", "path1,path2,same\na,,1", "p.csv:2: an empty path2"),
        ("p.csv", "path1,path2,same\n", "p.csv' holds no pair"),
        ("p.csv", "path1,path2,same,fold\na,b,1,1\na,c,0,", "p.csv:3: an empty fold, where other rows have one"),
        ("p.txt", "", "p.txt' is empty"),
        ("p.txt", "Ann 1 2\n", "p.txt:1: 'Ann 1 2'; a pairs.txt begins with the numbers of folds"),
        ("p.txt", "2 1\nAnn 1 2\n", "p.txt:1: 2 folds of 1 pair of either kind are 4 pairs; it holds 1"),
        ("p.txt", "1\nAnn 1 x\nAnn 1 Bob 2", "p.txt:2: .*a pair is `name n1 n2`"),
        ("p.txt", "1\nAnn 1 Bob 2\nAnn 1 2", "p.txt:2: .*of two names, but the first 1 of a fold are of one"),
        ("p.txt", "1 2 1\n1 2 3", "p.txt:2: '1 2 3': a line is two templates, and 1"),
        ("none.csv", None, "no file '.*none.csv'"),
    ],
)
def test_files_of_pairs_that_cannot_be(tmp_path, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_pairs(tmp_path / name)


def test_images_that_are_not_there_or_not_clear(people):
    rows = RowsByPath(people)
    with pytest.raises(InputError, match="p.csv:5: no image 'Dan.jpg' in lfw\np.csv:7: no image 'A/Bob_B_0001.jpg'"):
        rows.rows(["Dan.jpg", "Bob_B_0001.jpg", "A/Bob_B_0001.jpg"], [5, 6, 7], "p.csv")
    twice = RowsByPath(Records("x", np.array(["a/x.jpg", "b/x.jpg"]), None, *np.ones((2, 2), bool)))
    with pytest.raises(InputError, match="p.csv:1: 'x.jpg' may be 2 images of x; write more of it"):
        twice.rows(["x.jpg"], [1], "p.csv")
    assert twice.rows(["b/x.jpg"], [1], "p.csv").tolist() == [1]


def test_templates_that_cannot_be(people, tmp_path):
    (tmp_path / "t.csv").write_text("path,template\nAnn_A_0001.jpg,1\nBob_B_0001.jpg,1\n")
    with pytest.raises(InputError, match="t.csv:3: template '1' has images of the labels 'a' and 'b'"):
        read_templates(tmp_path / "t.csv", people)
    (tmp_path / "t.csv").write_text("path,template\nAnn_A_0001.jpg,\n")
    with pytest.raises(InputError, match="t.csv:2: an empty template"):
        read_templates(tmp_path / "t.csv", people)


# Pairs drawn from a list.


def test_drawn_pairs_are_folds_of_labels_of_their_own(tmp_path):
    labels = np.arange(90) % 18
    paths = np.array([f"/set/{label}/{row}.jpg" for row, label in enumerate(labels)])
    records = Records("list.csv", paths, labels, *np.ones((2, 90), bool))
    drawn = draw_pairs(records, 3, 20, 5)
    assert drawn == draw_pairs(records, 3, 20, 5) != draw_pairs(records, 3, 20, 6)
    left, right, is_same, folds = map(np.array, zip(*drawn))
    assert ((labels[left] == labels[right]) == is_same).all() and (left != right).all()
    assert len(set(map(frozenset, zip(left.tolist(), right.tolist())))) == 120
    for fold in (1, 2, 3):
        assert is_same[folds == fold].sum() == (~is_same[folds == fold]).sum() == 20
        inside, outside = (set(labels[np.append(left[m], right[m])]) for m in (folds == fold, folds != fold))
        assert not inside & outside
    write_pairs(records, "/set", drawn, tmp_path / "p.csv")
    pairs = read_pairs(tmp_path / "p.csv")
    assert RowsByPath(records).rows(pairs.left, pairs.lines, "p.csv").tolist() == left.tolist()
    assert pairs.is_same.tolist() == is_same.tolist() and pairs.folds.tolist() == folds.astype(str).tolist()
    with pytest.raises(InputError, match="fold 1 of 3 has 60 pairs of one label, fewer than 99; take fewer pairs"):
        draw_pairs(records, 3, 99, 0)


# eval.py.


def npz(path, seed, start=0):
    embeddings, codes = data(120, 12, seed=seed)
    paths = np.array([f"{row:03}.jpg" for row in range(120)])
    np.savez(path, embeddings=embeddings, labels=codes + start, paths=paths)
    return embeddings, codes


def evaluate(folder, **flags):
    """(what eval.py printed, what result.json says of verification)."""
    printed = run("eval", as_line({"output_dir": folder, "embeddings": folder / "x.npz", "use_gpu": False, **flags}))
    return printed, json.loads((folder / "result.json").read_text()).get("verification")


def test_eval_tells_it_all(tmp_path):
    pytest.importorskip("sklearn")
    embeddings, codes = npz(tmp_path / "x.npz", 0)
    npz(tmp_path / "val.npz", 1, start=100)
    flags = {"verification": True, "threshold_on": tmp_path / "val.npz", "open_set": 0.5, "resamples": 20}
    printed, result = evaluate(tmp_path, **flags)
    scores, is_same, _, _ = pairs_of(embeddings, codes)
    assert result["pairs"] == {
        "of": "all pairs",
        "positive": is_same.sum(),
        "negative": (~is_same).sum(),
        "labels": 12,
    }
    for point in result["tar_at_far"]:
        assert point["tar"]["value"] == plain(scores, is_same, point["far"])[0]
        assert point["tar"]["interval"][0] <= point["tar"]["value"] <= point["tar"]["interval"][1]
    for row in result["threshold_on"]["thresholds"]:
        assert row["measured"]["far"]["value"] == (scores[~is_same] >= row["cosine"]).mean()
        assert row["measured"]["tar"]["value"] == (scores[is_same] >= row["cosine"]).mean()
        assert row["chosen"]["far"] <= row["far"]
    assert result["threshold_on"]["list"] == "val.npz" and result["fars_left_out"] == [1e-4, 1e-5, 1e-6]
    assert {"brier", "ece"} <= result["calibration"].keys() and result["open_set"]["unknown_labels"] == 6
    assert "same or not, over all pairs" in printed and "threshold chosen on val.npz" in printed
    assert "FAR 0.0001, 1e-05, 1e-06: left out, since so few" in printed and "open set, 6 labels unknown" in printed
    assert "same or not" not in evaluate(tmp_path)[0]


def test_eval_by_squared_distances(tmp_path):
    pytest.importorskip("sklearn")
    embeddings, codes = npz(tmp_path / "x.npz", 0)
    npz(tmp_path / "val.npz", 1, start=100)
    flags = {"threshold_on": tmp_path / "val.npz", "distance": "squared_euclidean", "resamples": 20}
    printed, result = evaluate(tmp_path, verification=True, pairs=True, **flags)
    scores, is_same, _, _ = pairs_of(embeddings, codes, "squared_euclidean")
    for row in result["threshold_on"]["thresholds"]:
        assert row["squared_distance"] > 0 and "cosine" not in row
        assert row["measured"]["tar"]["value"] == (scores[is_same] >= -row["squared_distance"]).mean()
    low, high = result["tar_at_far"][0]["threshold_interval"]
    assert 0 < low < result["tar_at_far"][0]["squared_distance"] < high
    assert "squared distance" in printed
    best = json.loads((tmp_path / "result.json").read_text())["metrics"]["best_threshold"]
    assert best["threshold"] == best["squared_distance"] == -best["score"]


def test_the_best_threshold_says_what_it_is(tmp_path):
    npz(tmp_path / "x.npz", 0)
    printed, _ = evaluate(tmp_path, pairs=True)
    best = json.loads((tmp_path / "result.json").read_text())["metrics"]["best_threshold"]
    assert best["cosine"] == best["score"] and best["threshold"] == 1 - best["cosine"]
    assert f"cosine {best['cosine']:.3f}, which is --postprocess=constant_threshold --threshold=" in printed


def test_the_report_has_it(tmp_path):
    pytest.importorskip("sklearn")
    embeddings, codes = data(60, 12)
    texts = np.array([f"text:{row}" for row in range(60)])
    np.savez(tmp_path / "x.npz", embeddings=embeddings, labels=codes, paths=texts)
    flags = {"verification": True, "threshold_on": tmp_path / "x.npz", "resamples": 0}
    _, result = evaluate(tmp_path, report=tmp_path / "page.html", **flags)
    page = (tmp_path / "page.html").read_text()
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert content["verification"] == result and result["calibration"]["pairs"]


def test_eval_of_a_file_of_pairs(tmp_path):
    embeddings, codes = npz(tmp_path / "x.npz", 0)
    rng = np.random.default_rng(3)
    same = [rng.choice(np.flatnonzero(codes == rng.choice(codes)), 2, replace=False) for _ in range(60)]
    different = []
    while len(different) < 60:
        left, right = rng.integers(0, 120, 2)
        if codes[left] != codes[right]:
            different.append((left, right))
    lines = ["path1,path2,same,fold"]
    for number, (left, right) in enumerate([*same, *different]):
        lines.append(f"{left:03}.jpg,{right:03}.jpg,{int(number < 60)},{number % 10}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    printed, result = evaluate(tmp_path, verification=True, pairs_file=tmp_path / "pairs.csv", resamples=0)
    left, right = np.array([*same, *different]).T
    scores, is_same = scores_of(embeddings)[left, right], np.arange(120) < 60
    expected = fold_accuracies(scores, is_same, np.arange(120) % 10)
    assert result["folds"]["accuracy"] == pytest.approx(expected.mean)
    assert result["pairs"]["of"] == "the pairs of images in pairs.csv" and len(result["folds"]["of_folds"]) == 10
    assert "10 folds: accuracy" in printed and result["tar_at_far"][0]["tar"]["interval"] is None


def test_eval_of_templates(tmp_path):
    embeddings, codes = npz(tmp_path / "x.npz", 0)
    lines = ["path,template"]
    numbers = codes * 2 + np.arange(120) % 2
    lines += [f"{row:03}.jpg,t{number}" for row, number in enumerate(numbers)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    _, result = evaluate(tmp_path, verification=True, templates=tmp_path / "t.csv", resamples=0)
    present, places = np.unique(numbers, return_inverse=True)
    scores, is_same, _, _ = pairs_of(mean_embeddings(embeddings, places), present // 2)
    assert result["pairs"]["of"] == "all pairs of templates" and result["pairs"]["positive"] == is_same.sum()
    assert result["tar_at_far"][0]["tar"]["value"] == plain(scores, is_same, 0.1)[0]
    (tmp_path / "p.csv").write_text("template1,template2,same\nt0,t1,1\nt0,t2,0\nt3,t2,1\nt1,t5,0\n")
    flags = {"templates": tmp_path / "t.csv", "pairs_file": tmp_path / "p.csv", "far": 0.5}
    _, result = evaluate(tmp_path, verification=True, resamples=0, **flags)
    assert result["pairs"]["of"] == "the pairs of templates in p.csv" and result["pairs"]["positive"] == 2


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"far": 0.1}, "--far goes with --verification=True"),
        ({"threshold_on": "val.npz"}, "--threshold_on goes with --verification=True"),
        ({"verification": True, "far": 1e-7}, "a FAR of 1e-07 of .* negative pairs is less than one pair"),
        ({"verification": True, "threshold_on": "val"}, "has to be embeddings"),
        ({"verification": True, "threshold_on": "one.npz"}, "has one label only"),
        ({"verification": True, "threshold_on": "lone.npz"}, "has no label with two images"),
        ({"verification": True, "threshold_on": "val.npz", "far": "0.1,1e-4"}, "a FAR of 0.0001 of .* less than one"),
        ({"verification": True, "pairs_file": "none.csv"}, "no file 'none.csv'"),
        ({"verification": True, "pairs_file": "gone.csv"}, "gone.csv:2: no image 'zzz.jpg' in x.npz"),
        ({"verification": True, "pairs_file": "side.csv"}, "fold '1': all of its 1 pair is same"),
        ({"verification": True, "pairs_file": "kind.csv"}, "all 1 pair is same"),
        ({"verification": True, "pairs_file": "wrong.csv"}, "are called the same, which by the labels"),
        ({"verification": True, "pairs_file": "t.csv"}, "pairs of templates; --templates has to say"),
        ({"verification": True, "open_set": 1.5}, "--open_set=1.5 is neither a share between 0 and 1 nor a file"),
        ({"verification": True, "open_set": "names.txt"}, "names.txt: no label 'zebra' in x.npz"),
    ],
)
def test_eval_refuses_before_it_works(tmp_path, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    _, codes = npz("x.npz", 0)
    small, _ = data(40)
    np.savez("val.npz", embeddings=small, labels=np.arange(40) % 20)
    np.savez("one.npz", embeddings=small, labels=np.zeros(40, int))
    np.savez("lone.npz", embeddings=small, labels=np.arange(40))
    other = int(np.flatnonzero(codes != codes[0])[0])
    mate = int(np.flatnonzero(codes == codes[0])[1])
    files = {
        "gone.csv": "path1,path2,same\nzzz.jpg,000.jpg,1",
        "side.csv": f"path1,path2,same,fold\n000.jpg,{mate:03}.jpg,1,1\n000.jpg,{other:03}.jpg,0,2\n"
        f"000.jpg,{mate:03}.jpg,1,2",
        "kind.csv": f"path1,path2,same\n000.jpg,{mate:03}.jpg,1",
        "wrong.csv": f"path1,path2,same\n000.jpg,{other:03}.jpg,1\n",
        "t.csv": "template1,template2,same\na,b,1",
        "names.txt": "zebra\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path, embeddings="x.npz", **{key: value for key, value in flags.items()})
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_intervals_hold_what_they_say():
    """Of 200 lists of 60 labels out of one world, about 95 % of the intervals hold the rates of that world.

    More for FAR: where pairs of two labels hardly depend on each other, drawings of both make too much of each.
    """
    rng = np.random.default_rng(0)

    def sample(labels):
        # Some labels are harder than others, and their pairs have that in common.
        centres, noises = rng.standard_normal((labels, 8)), rng.uniform(0.3, 1.2, (labels, 1))
        codes = np.repeat(np.arange(labels), 5)
        embeddings = centres[codes] + noises[codes] * rng.standard_normal((len(codes), 8))
        return QueryGallery.of(embeddings.astype(np.float32), codes)

    truth = verify_all_pairs(sample(3000), (0.01,), (0.6,), 0)
    hits = {"far": 0, "tar": 0, "tar at far": 0}
    for seed in range(200):
        figures = verify_all_pairs(sample(60), (0.01,), (0.6,), 200, seed)
        pairs = {
            "far": (figures.at[0].far, truth.at[0].far),
            "tar": (figures.at[0].tar, truth.at[0].tar),
            "tar at far": (figures.points[0].tar, truth.points[0].tar),
        }
        for name, (rate, right) in pairs.items():
            hits[name] += rate.interval[0] <= right.value <= rate.interval[1]
    assert all(0.89 < hits[name] / 200 < 0.99 for name in ("tar", "tar at far")), hits
    assert hits["far"] / 200 > 0.93, hits
