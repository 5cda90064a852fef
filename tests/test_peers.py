"""Definitions and doors beside the packages they are named after, on random data, lone queries, duplicates, a single
query, categories and sequences; and where those give NaN or crash, what stands here instead."""

import math

import numpy as np
import pytest
import torch
from tolerances import about, assert_within, gamma, score_error

from compat.easydl import (
    calculate_cosine_similarity_matrix,
    create_pairwise_similarity_ground_truth_matrix,
    evaluate_pairwise_score_matrix_with_true_label,
)
from compat.oml import calc_fnmr_at_fmr_rr, calc_retrieval_metrics_rr, calc_topological_metrics
from data.image.transforms import TestTransform
from retrieval.metrics.pairs import fnmr_at_fmr
from retrieval.metrics.per_query import query_values, summary
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

KS = (1, 2, 5, 30)


@pytest.fixture(scope="module")
def oml():
    pytest.importorskip("oml", reason="parity with Open Metric Learning needs requirements/peers.txt")
    from oml.functional import knn, metrics
    from oml.metrics import embeddings
    from oml.retrieval import retrieval_results

    return {"knn": knn, "metrics": metrics, "rr": embeddings, "results": retrieval_results.RetrievalResults}


@pytest.fixture(scope="module")
def pml():
    calculator = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator",
        reason="parity with pytorch-metric-learning needs requirements/peers.txt",
    )
    pytest.importorskip("faiss", reason="pytorch-metric-learning searches with faiss")
    return calculator.AccuracyCalculator


def unit_rows(count, width=6, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def case(name):
    """(rows, labels, sequences or None)."""
    rng = np.random.default_rng(len(name))
    if name == "random":
        return unit_rows(80), rng.integers(0, 15, 80), None
    if name == "lone":
        return unit_rows(40), np.r_[rng.integers(0, 5, 30), np.arange(100, 110)], None
    if name == "sequences":
        return unit_rows(60), rng.integers(0, 8, 60), rng.integers(0, 25, 60)
    if name == "pair":
        return unit_rows(2), np.array([4, 4]), None
    return unit_rows(50), np.arange(50) // 10, None  # many of each label


CASES = ("random", "lone", "sequences", "pair", "many")


def oml_results(oml, rows, labels, sequences, k=100):
    everyone = torch.arange(len(rows))
    sequences = None if sequences is None else torch.from_numpy(sequences)
    found = oml["knn"].batched_knn(rows, everyone, everyone, k, sequences, torch.from_numpy(labels))
    return oml["results"](*found)


def ours_and_theirs(oml, name, k=100):
    rows, labels, sequences = case(name)
    ours = RetrievalResults.from_embeddings(rows, labels, k=k, distance="squared_euclidean", sequences=sequences)
    return ours, oml_results(oml, rows, labels, sequences, k)


@pytest.mark.parametrize("name", CASES)
def test_search_finds_what_oml_finds(oml, name):
    ours, theirs = ours_and_theirs(oml, name)
    for mine, other in ((ours.retrieved_ids, theirs.retrieved_ids), (ours.gt_ids, theirs.gt_ids)):
        assert all(torch.equal(one, two) for one, two in zip(mine, other, strict=True))
    # Squares are compared: theirs are roots of |x|^2 + |y|^2 - 2 x.y of six numbers of unit rows, in float32.
    error = score_error("squared_euclidean", case(name)[0]) + gamma(6 + 12, torch.float32) * 4
    for one, two in zip(ours.distances, theirs.distances, strict=True):
        assert_within(one, two.square(), error)


def assert_same(mine, other, path=""):
    """Nested dicts of tensors; where the peer has NaN, ours has a number."""
    assert {str(key) for key in mine} == {str(key) for key in other}
    other = {str(key): value for key, value in other.items()}
    for key, value in mine.items():
        if isinstance(value, dict):
            assert_same(value, other[str(key)], f"{path}/{key}")
        else:
            theirs = torch.as_tensor(other[str(key)]).float()
            assert not value.isnan().any(), f"{path}/{key}"
            known = ~theirs.isnan()
            bound = {"rtol": 0, "atol": gamma(200, torch.float32)}  # up to 100 precisions, the mean of 80 queries
            found = value[known].float()
            torch.testing.assert_close(found, theirs[known], **bound, msg=lambda m: f"{path}/{key}: {m}")


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("name", CASES)
def test_retrieval_metrics_equal_omls(oml, name, k, categories, reduce):
    ours, theirs = ours_and_theirs(oml, name, k)
    categories = np.arange(len(ours)) % 3 if categories else None
    arguments = {"cmc_top_k": KS, "precision_top_k": KS, "map_top_k": KS, "reduce": reduce, "verbose": False}
    expected = oml["rr"].calc_retrieval_metrics_rr(theirs, categories, **arguments)
    assert_same(calc_retrieval_metrics_rr(ours, categories, **arguments), expected)


def test_a_lone_query_makes_omls_precision_nan_and_ours_not(oml):
    ours, theirs = ours_and_theirs(oml, "lone")
    assert oml["rr"].calc_retrieval_metrics_rr(theirs, verbose=False)["precision"][5].isnan()
    assert not calc_retrieval_metrics_rr(ours)["precision"][5].isnan()


def test_metrics_of_ragged_results_equal_omls(oml):
    """Results of different lengths, some empty, as thresholds leave them."""
    distances = [torch.tensor(d) for d in ([0.1, 0.2, 0.3], [], [0.5], [], [0.1, 0.4])]
    ids = [torch.tensor(i, dtype=torch.int64) for i in ([3, 1, 2], [], [7], [], [5, 6])]
    right = [torch.tensor(i, dtype=torch.int64) for i in ([1, 2, 9, 10], [4], [8], [], [5])]
    arguments = {"cmc_top_k": KS, "precision_top_k": KS, "map_top_k": KS, "reduce": False, "verbose": False}
    theirs = oml["rr"].calc_retrieval_metrics_rr(oml["results"](distances, ids, right), None, **arguments)
    assert_same(calc_retrieval_metrics_rr(RetrievalResults(distances, ids, right), None, **arguments), theirs)


@pytest.mark.parametrize("name", ["random", "lone", "many"])
def test_fnmr_equals_omls(oml, name):
    """The door over what was retrieved, and ours over all pairs where everything was retrieved."""
    ours, theirs = ours_and_theirs(oml, name)
    rates = (0.01, 0.1, 0.5)
    expected = oml["rr"].calc_fnmr_at_fmr_rr(theirs, rates)
    assert_same(calc_fnmr_at_fmr_rr(ours, rates), expected)
    rows, labels, _ = case(name)
    everything = fnmr_at_fmr(QueryGallery.of(rows, labels), rates, "squared_euclidean")
    assert everything == about({rate: expected["fnmr@fmr"][rate].item() for rate in rates}, 100, torch.float32)


def test_fnmr_where_oml_crashes(oml):
    ours, theirs = ours_and_theirs(oml, "pair")
    with pytest.raises(IndexError):
        oml["rr"].calc_fnmr_at_fmr_rr(theirs, (0.1,))
    assert calc_fnmr_at_fmr_rr(ours, (0.1,)) == {"fnmr@fmr": {0.1: torch.tensor(0.0)}}


@pytest.mark.parametrize("categories", [None, np.arange(60) % 2])
@pytest.mark.parametrize("width", [4, 40, 100])
def test_topological_metrics_equal_omls(oml, width, categories):
    rows = unit_rows(60, width)
    variances = (0.3, 0.5, 0.9)
    theirs = oml["metrics"].calc_topological_metrics(rows, variances, categories)
    assert_same(calc_topological_metrics(rows, variances, categories), theirs)


PML_NAMES = {
    "precision@1": "precision_at_1",
    "map@r": "mean_average_precision_at_r",
    "r_precision": "r_precision",
    "mrr": "mean_reciprocal_rank",
}


@pytest.mark.parametrize("name", [name for name in CASES if name != "sequences"])
def test_metrics_equal_pmls(pml, name):
    rows, labels, _ = case(name)
    theirs = pml(k=None, device=torch.device("cpu")).get_accuracy(
        rows, labels, include=(*PML_NAMES.values(), "mean_average_precision")
    )
    task, whole = QueryGallery.of(rows, labels), f"map@{len(rows)}"
    figures = query_values(task, (*PML_NAMES, whole), "pml")
    mine = summary(figures, task.positives(), skip_lone=True)["overall"]
    for ours, other in {**PML_NAMES, whole: "mean_average_precision"}.items():
        assert mine[ours] == about(theirs[other], 200, torch.float32), ours


@pytest.mark.parametrize("k", [1, 3, 7])
def test_map_at_k_equals_pmls(pml, k):
    rows, labels, _ = case("random")
    theirs = pml(k=k, device=torch.device("cpu")).get_accuracy(rows, labels, include=("mean_average_precision",))
    task = QueryGallery.of(rows, labels)
    mine = summary(query_values(task, (f"map@{k}",), "pml"), task.positives(), skip_lone=True)["overall"]
    assert mine[f"map@{k}"] == about(theirs["mean_average_precision"], 200, torch.float32)


def test_queries_and_gallery_apart_equal_pmls(pml):
    queries, gallery = unit_rows(20), unit_rows(70, seed=1)
    labels = np.arange(20) % 9, np.arange(70) % 7  # two labels of queries are not in the gallery
    theirs = pml(k=None, device=torch.device("cpu")).get_accuracy(queries, labels[0], gallery, labels[1])
    task = QueryGallery.apart(queries, gallery, *labels)
    mine = summary(query_values(task, tuple(PML_NAMES), "pml"), task.positives(), skip_lone=True)["overall"]
    for ours, other in PML_NAMES.items():
        if other in theirs:
            assert mine[ours] == about(theirs[other], 200, torch.float32), ours


def test_where_pml_gives_nan_or_crashes(pml):
    rows, labels = unit_rows(4), np.arange(4)
    accuracy = pml(k=None, device=torch.device("cpu")).get_accuracy(rows, labels, include=("precision_at_1",))
    assert math.isnan(accuracy["precision_at_1"])
    task = QueryGallery.of(rows, labels)
    assert summary(query_values(task, ("precision@1",)), task.positives())["overall"]["precision@1"] == 0
    skipped = summary(query_values(task, ("precision@1",), "pml"), task.positives(), skip_lone=True)
    assert skipped["overall"]["precision@1"] is None
    with pytest.raises(TypeError):
        pml(include=("mean_reciprocal_rank",), device=torch.device("cpu")).get_accuracy(rows, labels)
    assert query_values(task, ("mrr",))["mrr"].tolist() == [0] * 4


def test_labels_that_float32_confuses(pml):
    rows, labels = unit_rows(4), np.array([2**24, 2**24 + 1, 2**24 + 1000, 2**24 + 1001])
    confused = pml(k=1, device=torch.device("cpu")).get_accuracy(rows, labels, include=("precision_at_1",))
    assert not math.isnan(confused["precision_at_1"])  # four different labels, and yet it finds some right
    assert QueryGallery.of(rows, labels).positives().tolist() == [0] * 4


def easydl_naive(truth, scores):
    """EasyDL's figures by loops and scikit-learn's curve."""
    curves = pytest.importorskip("sklearn.metrics")
    count = len(truth)
    hits = [truth[i, max((j for j in range(count) if j != i), key=lambda j: (scores[i, j], -j))] for i in range(count)]
    above = np.triu_indices(count, 1)
    precision, recall, thresholds = curves.precision_recall_curve(truth[above], scores[above])
    return np.mean(hits), curves.auc(recall, precision), precision, recall, thresholds


@pytest.mark.parametrize("seed", range(3))
def test_easydls_functions(seed):
    rows, labels = unit_rows(30, seed=seed).numpy(), np.random.default_rng(seed).integers(0, 6, 30)
    rows[5] = rows[6] = rows[7]
    scores = calculate_cosine_similarity_matrix(3 * rows)
    lengths = gamma(6 + 4, torch.float32)  # rows have length 1 but for this
    assert_within(scores, rows.astype(np.float64) @ rows.T.astype(np.float64), lengths + score_error("cosine", rows))
    assert scores.dtype == np.float32 and np.abs(scores).max() <= 1
    truth = create_pairwise_similarity_ground_truth_matrix(labels)
    assert truth.dtype == np.int64 and (truth == (labels[:, None] == labels[None])).all()
    found = evaluate_pairwise_score_matrix_with_true_label(truth, scores)
    top1, area, precision, recall, thresholds = easydl_naive(truth, scores)
    assert found["top1_accuracy"] == about(top1, 40) and found["pr_auc"] == about(area, 4 * 435)
    lists = {"precision_list": precision, "recall_list": recall, "threshold_list": thresholds}
    for name, expected in lists.items():  # scikit-learn ends the curve where recall has reached 1
        assert_within(found[name][-len(expected) :], expected, gamma(4))


def test_easydls_edges():
    zero = calculate_cosine_similarity_matrix(np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert zero.tolist() == [[0, 0], [0, 1]]
    assert evaluate_pairwise_score_matrix_with_true_label(np.eye(1), np.eye(1))["top1_accuracy"] == 0
    none = evaluate_pairwise_score_matrix_with_true_label(np.eye(3), np.random.default_rng(0).random((3, 3)))
    assert none["pr_auc"] == 0 and none["top1_accuracy"] == 0


@pytest.mark.parametrize(
    "degrees, labels, recall, easydl_area",
    [
        ((0, 10, 30, 35, 90), (0, 0, 1, 1, 2), 0.8, 1.0),
        ((0, 20, 20, 20), (0, 0, 1, 1), 0.25, 0.5),
    ],
)
def test_published_examples(degrees, labels, recall, easydl_area):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    task = QueryGallery.of(rows, labels)
    assert query_values(task, ("recall@1",))["recall@1"].mean().item() == about(recall, 8)
    scores = calculate_cosine_similarity_matrix(rows.numpy())
    found = evaluate_pairwise_score_matrix_with_true_label(
        create_pairwise_similarity_ground_truth_matrix(labels), scores
    )
    assert found["pr_auc"] == about(easydl_area, 40)
    assert found["top1_accuracy"] == about(recall, 8)


@pytest.mark.parametrize("sides", [(70, 50), (9, 400), (300, 224), (224, 224), (31, 30), (1, 1)])
def test_padded_images_are_those_of_oml(oml, sides):
    """Longest side to 224 pixels, white around: OML's own transform of its CLIPs, normalisation and all."""
    from oml.transforms.images.albumentations import get_normalisation_resize_albu

    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    transform = get_normalisation_resize_albu(im_size=224, mean=(0.5, 0.25, 0.75), std=(0.25, 0.5, 0.2))
    theirs = transform(image=image)["image"]
    crop = TestTransform(224, 224, 0, "linear", "pad")(image).permute(2, 0, 1) / 255
    ours = (crop - torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1)) / torch.tensor([0.25, 0.5, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
