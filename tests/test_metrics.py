"""Every metric beside a loop over queries written from its definition, and the rules for queries that find nothing."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import about, assert_within, gamma

from core.errors import InputError
from retrieval.metrics.clustering import cluster_agreement
from retrieval.metrics.components import component_fractions
from retrieval.metrics.evaluation import evaluate
from retrieval.metrics.pairs import fnmr_at_fmr, pair_histogram
from retrieval.metrics.per_query import query_values, recall_at_k, summary
from retrieval.metrics.ranking import DEFAULT, DEFINITIONS, METRICS, Ranked, parse_metric, values
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults
from retrieval.scores import Scores

NAMES = (*DEFAULT, "cmc@3", "precision@1", "precision@5", "map@1", "map@5", "map@100", "knn@1", "knn@5", "upper_bound")


def example(queries=40, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, queries)
    labels[:3] = [50, 51, 52]  # alone with their labels
    rows = rng.normal(size=(12, 4))[labels % 12] + 0.8 * rng.normal(size=(queries, 4))
    return rows.astype(np.float32), labels


def ranking(rows, labels, query):
    """(label of each other row, whether it is right), nearest first."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    others = [i for i in range(len(rows)) if i != query]
    others.sort(key=lambda i: (-unit[query] @ unit[i], i))
    return [labels[i] for i in others], [bool(labels[i] == labels[query]) for i in others]


def naive(name, ranked, hits, positives, own):
    """One query's figure, from the definitions in docs/metrics.md."""
    kind, k = name.split("@") if "@" in name else (name, None)
    k = positives if k == "r" else int(k) if k else None
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    if kind in ("recall", "cmc"):
        return float(any(hits[:k]))
    if kind == "precision":
        return sum(hits[:k]) / min(k, len(hits))
    if kind == "map":
        most = min(positives, k) if name != "map@r" else positives
        return sum(p for p, hit in zip(precisions[:k], hits) if hit) / most if most else 0.0
    if kind == "r_precision":
        return sum(hits[:positives]) / positives if positives else 0.0
    if kind == "mrr":
        return 1 / (1 + hits.index(True)) if True in hits else 0.0
    if kind == "knn":
        votes = [ranked[:k].count(label) for label in ranked[:k]]
        return float(ranked[votes.index(max(votes))] == own)
    return float(positives > 0)


@pytest.mark.parametrize("memory", [1, 2**28])
def test_query_values_equal_a_loop(memory):
    rows, labels = example()
    figures = query_values(QueryGallery.of(rows, labels), NAMES, memory=memory)
    assert list(figures) == list(NAMES)
    for query in range(len(rows)):
        ranked, hits = ranking(rows, labels, query)
        for name in NAMES:
            expected = naive(name, ranked, hits, sum(hits), labels[query])  # 40 precisions at most, their sum and mean
            assert figures[name][query].item() == about(expected, 2 * 40 + 4), name


def test_results_give_the_same_values():
    rows, labels = example()
    results = RetrievalResults.from_embeddings(rows, labels, k=39)
    names = [name for name in NAMES if not name.startswith("knn")]
    for name, column in values(Ranked.of(results), names).items():
        assert_within(column, query_values(QueryGallery.of(rows, labels), [name])[name], 2 * gamma(2 * 40 + 4))


def test_ranks_and_lists_agree_on_recall():
    rows, labels = example(200)
    by_rank = query_values(QueryGallery.of(rows, labels), ("recall@1", "recall@7", "mrr"))
    by_list = query_values(QueryGallery.of(rows, labels), ("recall@1", "recall@7", "mrr", "precision@2"))
    assert all(torch.equal(by_rank[name], by_list[name]) for name in by_rank)
    assert recall_at_k(rows, labels, (7,)) == {7: by_rank["recall@7"].mean().item()}


def test_queries_that_find_nothing_or_have_nothing_to_find():
    """Rows: nothing found of two right ones; nothing found, nothing right; two wrong found, nothing right."""
    found = Ranked(torch.zeros(3, 2).bool(), torch.tensor([0, 0, 2]), torch.tensor([2, 0, 0]))
    for definition in DEFINITIONS:
        for name, column in values(
            found, ("recall@1", "precision@2", "map@2", "map@r", "r_precision", "mrr"), definition
        ).items():
            perfect = definition == "oml" and name in ("recall@1", "precision@2", "map@2")
            assert column.tolist() == [0, float(perfect), 0], (definition, name)


def test_summary_means_by_category_and_lone_queries():
    figures = {"recall@1": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])}
    positives = torch.tensor([1, 1, 2, 0, 0])
    found = summary(figures, positives, ["a", "b", "b", "b", "c"])
    assert found["overall"] == {"recall@1": 0.4, "queries": 5, "lone_queries": 2}
    assert found["categories"]["b"] == {"recall@1": about(1 / 3, 3), "queries": 3, "lone_queries": 1}
    skipped = summary(figures, positives, ["a", "b", "b", "b", "c"], skip_lone=True)
    assert skipped["overall"] == {"recall@1": about(2 / 3, 3), "queries": 3, "lone_queries": 2}
    assert skipped["categories"]["c"] == {"recall@1": None, "queries": 0, "lone_queries": 1}
    assert summary(figures, torch.zeros(5), skip_lone=True)["overall"]["recall@1"] is None


def test_k_beyond_the_gallery_means_all_of_it():
    rows, labels = example()
    names = ("recall@1000", "recall@2000", "precision@1000", "map@1000", "map@3000", "knn@1000")
    clipped = [name.split("@")[0] + "@40" for name in names]
    beyond, whole = (
        query_values(QueryGallery.of(rows, labels), names),
        query_values(QueryGallery.of(rows, labels), clipped),
    )
    assert all(torch.equal(beyond[name], whole[other]) for name, other in zip(names, clipped))
    few = query_values(QueryGallery.of(rows[:4], labels[:4]))
    assert all(len(column) == 4 for column in few.values())


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("recal@1", r"unknown metric 'recal@1'; there are: recall@k, .*Did you mean 'recall@k'\?"),
        ("map", "unknown metric 'map'"),
        ("recall@k", "unknown metric 'recall@k'"),
        ("recall@0", "k has to be 1 or more"),
        ("mrr@5", "unknown metric 'mrr@5'"),
    ],
)
def test_mistyped_metrics_are_named(name, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_metric(name)


def test_other_mistakes():
    found = Ranked(torch.zeros(1, 1).bool(), torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(InputError, match=r"unknown definition 'olm'.*Did you mean 'oml'\?"):
        values(found, ("mrr",), "olm")
    with pytest.raises(InputError, match="labels are unknown"):
        query_values(QueryGallery.of(torch.randn(3, 2)))
    with pytest.raises(InputError, match="needs the items' labels"):
        values(found, ("knn@1",))


@pytest.mark.parametrize("name", [name.replace("@k", "@3") for name in METRICS.names()])
def test_every_metric_lies_between_0_and_1_and_is_never_nan(name):
    rows, labels = example()
    for query_gallery in (
        QueryGallery.of(rows, labels),
        QueryGallery.of(rows[:1], labels[:1]),
        QueryGallery.of(rows, np.arange(40)),
    ):
        for definition in DEFINITIONS:
            column = query_values(query_gallery, (name,), definition)[name]
            assert ((column >= 0) & (column <= 1)).all()


def pair_distances(rows, labels, distance):
    rows = rows.astype(np.float64)
    if distance == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        matrix = 1 - rows @ rows.T
    else:
        matrix = ((rows[:, None] - rows) ** 2).sum(2)
    others, same = ~np.eye(len(rows), dtype=bool), labels[:, None] == labels
    return matrix[others & same], matrix[others & ~same]


@pytest.mark.parametrize("memory", [1, 2**28])
@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
def test_fnmr_is_that_of_all_pairs(distance, memory):
    rows, labels = example(90)
    positive, negative = pair_distances(rows, labels, distance)
    rates = (0, 0.001, 0.01, 0.1, 0.5, 0.9, 1)
    expected = {rate: (positive >= np.quantile(negative, rate)).mean() for rate in rates}
    assert fnmr_at_fmr(QueryGallery.of(rows, labels), rates, distance, memory) == about(expected, 4)


def test_fnmr_of_a_collapsed_set_is_one():
    assert fnmr_at_fmr(QueryGallery.of(torch.ones(60, 3), torch.arange(60) // 2), (0.1, 0.5)) == {0.1: 1.0, 0.5: 1.0}


@pytest.mark.parametrize(
    "labels, sentence", [([0, 1, 2], "0 are positive and 6 negative"), ([0, 0, 0], "6 are positive and 0 negative")]
)
def test_fnmr_needs_pairs_of_both_kinds(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        fnmr_at_fmr(QueryGallery.of(torch.randn(3, 2), labels))
    with pytest.raises(InputError, match="outside 0 to 1"):
        fnmr_at_fmr(QueryGallery.of(torch.randn(3, 2), [0, 0, 1]), (1.5,))


@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
def test_histogram_counts_every_pair_once_each_way(distance):
    rows, labels = example(90)
    positive, negative = pair_distances(rows, labels, distance)
    histogram = pair_histogram(QueryGallery.of(rows, labels), distance, memory=2**14)
    assert histogram.positive.sum() == len(positive) and histogram.negative.sum() == len(negative)
    scores = 1 - positive if distance == "cosine" else -positive
    middles = np.repeat((histogram.edges[:-1] + histogram.edges[1:]) / 2, histogram.positive)
    width = histogram.edges[1] - histogram.edges[0]
    assert_within(middles, np.sort(scores), width / 2 + histogram.rounding_bound)


def precision_doubts(positive, negative, near):
    """How far the precision at each positive pair, and before it, may be off where scores are only known to `near`."""

    def above(scores, limits):
        return (scores >= limits[:, None]).sum(1)

    def doubt(right, wrong):
        """Of right / (right + wrong), each between two numbers; 1 where nothing is above."""
        most, least = right[1] / np.maximum(right[1] + wrong[0], 1), right[0] / np.maximum(right[0] + wrong[1], 1)
        return np.where(right[1] + wrong[1] > 0, np.where(right[1] + wrong[0] > 0, most, 1) - least, 0)

    up, own, down = ([above(s, positive + move) for s in (positive, negative)] for move in (near, 0, -near))
    (right_up, wrong_up), (right, _), (right_down, wrong_down) = up, own, down
    return doubt((right, right_down), (wrong_up, wrong_down)), doubt((right_up, right), (wrong_up, wrong_down))


def test_areas_and_threshold_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rows, labels = example(90)
    positive, negative = pair_distances(rows, labels, "cosine")
    truth, scores = np.r_[np.ones(len(positive)), np.zeros(len(negative))], 1 - np.r_[positive, negative]
    histogram = pair_histogram(QueryGallery.of(rows, labels))
    precision, recall, thresholds = metrics.precision_recall_curve(truth, scores)
    # What is closer may fall into one bin.
    near = histogram.edges[1] - histogram.edges[0] + 2 * histogram.rounding_bound
    at, before = precision_doubts(1 - positive, 1 - negative, near)
    assert_within(histogram.pr_auc(), metrics.auc(recall, precision), (at + before).mean() / 2 + gamma(4 * len(scores)))
    steps = metrics.average_precision_score(truth, scores)
    assert_within(histogram.average_precision(), steps, at.mean() + gamma(4 * len(scores)))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    threshold, best, precision_there, recall_there = histogram.best_threshold()
    right = thresholds[f1[:-1].argmax()]
    assert_within(threshold, right, near)
    # 2 TP / (P + TP + FP) changes by no more than 2 / (P + TP + FP) with each pair that is close to the threshold.
    close = (np.abs(scores - right) <= near).sum()
    assert_within(best, f1.max(), 2 * close / (len(positive) + (scores >= right).sum()))
    assert best == about(2 * precision_there * recall_there / (precision_there + recall_there), 8)
    with pytest.raises(InputError, match="no two items have the same label"):
        pair_histogram(QueryGallery.of(rows, np.arange(90))).pr_auc()


def test_fnmr_where_rounding_sorts_pairs_into_the_wrong_bin():
    """Hundreds of cosines within 2e-7 of 0.5, an edge of the histogram's bins."""
    rng = np.random.default_rng(0)
    cosines = 0.5 + rng.uniform(-2e-7, 2e-7, 600)
    gallery = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    query_gallery = QueryGallery.apart(np.array([[1.0, 0.0]], np.float32), gallery, [0], rng.integers(0, 2, 600))
    exact = Scores(query_gallery).exact_pairs(torch.zeros(600, dtype=torch.int64), torch.arange(600)).double().numpy()
    right = (query_gallery.gallery_labels == query_gallery.query_labels[0]).numpy()
    rates = tuple(np.linspace(0, 1, 41).tolist())
    expected = {rate: (1 - exact[right] >= np.quantile(1 - exact[~right], rate)).mean() for rate in rates}
    assert len(set(exact.tolist())) < 20  # many ties, too
    assert fnmr_at_fmr(query_gallery, rates) == about(expected, 4)


def test_sequences_and_flags_leave_pairs_out():
    rows, labels = torch.randn(6, 3), [0, 0, 0, 1, 1, 1]
    query_gallery = QueryGallery.of(rows, labels, [True] * 3 + [False] * 3, sequences=[0, 0, 1, 2, 1, 3])
    histogram = pair_histogram(query_gallery)
    assert histogram.positive.sum() == 4  # 0 and 1 share a sequence: 0-2, 1-2, 2-0, 2-1
    assert histogram.negative.sum() == 8  # 2 and 4 share one


def test_component_fractions():
    assert component_fractions(torch.eye(4, 10), (0.5, 1)) == about({0.5: 0.2, 1: 0.3}, 1, torch.float32)
    assert component_fractions(torch.eye(4, 10), (0.5, 1), "oml") == about({0.5: 0.2, 1: 0.5}, 1, torch.float32)
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert component_fractions(line, (0, 0.5, 1)) == about({0: 0, 0.5: 1 / 3, 1: 1 / 3}, 1, torch.float32)
    for rows in (torch.ones(5, 3), torch.ones(1, 3)):
        assert component_fractions(rows, (0.9,)) == {0.9: 0.0}
    many = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert component_fractions(many, (1,))[1] == 1
    with pytest.raises(InputError, match="between 0 and 1"):
        component_fractions(many, (1.2,))


def test_clustering_of_clear_clusters_is_perfect():
    pytest.importorskip("sklearn")
    labels = np.repeat([3, 7, 9], 10)
    rows = np.eye(3)[np.repeat([0, 1, 2], 10)] + 0.01 * np.random.default_rng(0).normal(size=(30, 3))
    figures = dict.fromkeys(("nmi", "ami", "homogeneity", "completeness", "v_measure"), 1)
    assert cluster_agreement(rows, labels) == about(figures, 4 * 30)  # sums over 30 items
    mixed = cluster_agreement(np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3)
    assert all(not math.isnan(value) and value < 0.3 for value in mixed.values())


def test_the_documents_worked_example():
    """docs/metrics.md: R = 4; right, wrong, right, right, wrong."""
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| ([\w@]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) == 8
    found = Ranked(torch.tensor([[1, 0, 1, 1, 0]]).bool(), torch.tensor([5]), torch.tensor([4]))
    for name, *columns in rows:
        for definition, printed in zip(DEFINITIONS, columns):
            assert f"{values(found, (name,), definition)[name].item():.4f}" == printed, (name, definition)


def test_every_metric_stands_in_the_documents():
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert [name for name in METRICS.names() if f"`{name}`" not in text] == []


class Listed:
    """A list of records as `evaluate` sees it."""

    noun = "image"

    def __init__(self, labels):
        self.vocabulary = self
        self.codes = labels

    def __len__(self):
        return len(self.codes)


def test_an_evaluation_is_a_value():
    rows, labels = example()
    query_gallery = QueryGallery.of(rows, labels, categories=labels % 2)
    evaluation = evaluate(query_gallery, torch.from_numpy(rows), Listed(labels))
    assert evaluation.metrics == DEFAULT and evaluation.definition == DEFINITIONS[0]
    assert evaluation.figures["recall@1"] == evaluation.values["recall@1"].mean().item()
    assert evaluation.found is evaluation.results is evaluation.histogram is None and not evaluation.links
    assert (evaluation.queries, evaluation.as_result()["images"]) == (40, 40)
    assert evaluation.lone == (query_gallery.positives() == 0).sum() > 0
    assert list(evaluation.categories) == ["0", "1"]
    lines = evaluation.as_text().splitlines()
    assert len(lines) == 1 + len(DEFAULT) + 1 and lines[1].split()[0] == "recall@1"
    with pytest.raises(AttributeError):
        evaluation.queries = 0


def test_an_evaluation_after_post_processing():
    rows, labels = example()
    query_gallery = QueryGallery.of(rows, labels)
    options = {"threshold": 0.2}
    evaluation = evaluate(
        query_gallery,
        torch.from_numpy(rows),
        Listed(labels),
        postprocess_options=options,
        metrics=("precision@5", "knn@3"),
        postprocess=("constant_threshold",),
        pairs=True,
        fmr=(0.1,),
        pcf=(0.5,),
        top=7,
    )
    assert evaluation.metrics == ("recall@1", "precision@5", "knn@3")
    assert list(evaluation.links) == ["top 7", "constant_threshold"]
    assert list(evaluation.links["top 7"]) == ["recall@1", "precision@5"]
    assert evaluation.found.n_retrieved_items == 7 and evaluation.results.padded_distances[:, 0].min() < 0.2
    assert evaluation.as_result()["postprocess"]["options"] == options
    assert {"pr_auc", "average_precision", "best_threshold", "fnmr@fmr=0.1", "pcf@0.5"} <= evaluation.figures.keys()
    assert "+ constant_threshold" in evaluation.as_text() and "--threshold=" in evaluation.as_text()
    with pytest.raises(InputError, match="k_reciprocal goes by cosine"):
        evaluate(
            query_gallery,
            torch.from_numpy(rows),
            Listed(labels),
            distance="squared_euclidean",
            postprocess=("k_reciprocal",),
        )
