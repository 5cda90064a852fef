"""report/page/projection.py and report/page/duplicates.py against the same things done the long way."""

import sys

import numpy as np
import pytest
import torch
from reports import clusters
from tolerances import assert_within, gamma, score_error

from core.errors import InputError
from report.page.duplicates import closest_across_labels, closest_across_lists, median_positive
from report.page.projection import TOGETHER, project, sample_rows
from retrieval.metrics.pairs import pair_histogram
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

LABELS = np.repeat(np.arange(12), 5)


def cosines(one, other):
    one, other = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in (one, other))
    return one @ other.T


def plane_error(table):
    """How far points of the best plane of a centred table (N, D) may be off, beside the longest row.

    Its scatter matrix has rounding errors of gamma(N) of its norm, and so has what eigenvectors are exact for (Higham,
    section 1.5 and references there); they turn by that over the gap of their eigenvalues (Davis and Kahan).
    """
    rows, width = table.shape
    values = np.r_[np.linalg.svd(table, compute_uv=False) ** 2, 0]
    gap = np.abs(np.diff(values))[: min(2, width - 1)].min() if width > 1 else values[0]
    return gamma(rows + 10 * width) * width**0.5 * values[0] / gap * np.linalg.norm(table, axis=1).max()


@pytest.mark.parametrize("width", [1, 2, 3, 90])
def test_pca_is_the_best_plane(width):
    table = np.random.default_rng(width).normal(size=(50, width)) * np.arange(1, width + 1)
    points, said = project(table, distance="squared_euclidean")
    centred = table - table.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * values)[:, :2]
    assert points.shape == (50, 2)
    assert_within(np.abs(points[:, : expected.shape[1]]), np.abs(expected), plane_error(centred))
    assert f"{(values[:2] ** 2).sum() / (values**2).sum():.0%}" in said
    assert_within(project(table, distance="squared_euclidean")[0], points, plane_error(centred))


def test_cosine_leaves_lengths_out():
    table = np.random.default_rng(0).normal(size=(30, 6))
    scaled = table * np.random.default_rng(1).uniform(0.1, 9, (30, 1))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert_within(project(table)[0], project(scaled)[0], 2 * plane_error(unit - unit.mean(0)))


def test_points_that_are_all_the_same():
    for rows in (1, 4):
        points, _ = project(np.zeros((rows, 3)))
        np.testing.assert_array_equal(points, np.zeros((rows, 2)))


def test_umap_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    table = np.random.default_rng(0).normal(size=(30, 6))
    with pytest.raises(InputError, match="pip install umap-learn"):
        project(table, "umap")
    assert project(table[:9], "umap")[1].startswith("PCA")
    with pytest.raises(InputError, match="unknown projection 'umpa'; there are: pca, umap"):
        project(table, "umpa")


def test_samples_take_labels_whole():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(300), 5))
    rows = sample_rows(labels, 200)
    assert len(set(rows)) == 200 and (np.diff(rows) > 0).all()
    assert (np.bincount(labels[rows], minlength=300) % 5 == 0).all()
    np.testing.assert_array_equal(sample_rows(labels, 200), rows)
    np.testing.assert_array_equal(sample_rows(labels, 1500), np.arange(1500))


def test_samples_are_not_filled_by_a_large_label():
    labels = np.array(["huge"] * 5000 + ["small"] * 20 + [f"lone{i}" for i in range(30)])
    names, counts = np.unique(labels[sample_rows(labels, 30 + 2 * TOGETHER)], return_counts=True)
    assert len(names) == 32 and counts.max() == TOGETHER


@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
def test_lookalikes_of_different_labels(distance):
    embeddings = clusters(LABELS, spread=1)
    results = RetrievalResults.from_embeddings(embeddings, LABELS, 59, distance)
    pairs = closest_across_labels(results, np.arange(60), LABELS, distance=distance, most=10)
    table = embeddings.double().numpy()
    scores = cosines(table, table) if distance == "cosine" else -((table[:, None] - table) ** 2).sum(2)
    best = {}
    for one in range(60):
        for other in range(one):
            both = tuple(sorted((LABELS[one], LABELS[other])))
            if both[0] != both[1] and scores[one, other] > best.get(both, (-np.inf,))[0]:
                best[both] = scores[one, other], other, one
    expected = sorted(best.values(), reverse=True)
    assert pairs.total == len(expected) == 66 and len(pairs.left) == 10
    assert list(zip(pairs.left, pairs.right)) == [(left, right) for _, left, right in expected[:10]]
    error = score_error(distance, embeddings) + 2.0**-23  # kept as 1 - cosine
    assert_within(pairs.scores, [score for score, _, _ in expected[:10]], error)
    floor = (expected[4][0] + expected[5][0]) / 2
    assert closest_across_labels(results, np.arange(60), LABELS, floor, distance).total == 5


def test_rows_are_those_of_the_queries():
    embeddings = torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [-1, 0]])
    task = QueryGallery.of(embeddings, [1, 2, 3, 4], np.array([False, False, True, False]))
    pairs = closest_across_labels(RetrievalResults.from_query_gallery(task, 3), [2], np.arange(4), most=1)
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.total) == ([0], [2], 3)


def test_lookalikes_in_another_list():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(50, 6)).astype(np.float32)
    other[7] = 2 * one[3]
    scores = cosines(one.astype(float), other.astype(float))
    pairs = closest_across_lists(one, other, floor=0.5, most=5)
    order = np.argsort(-scores.max(1))
    assert (pairs.left[0], pairs.right[0]) == (3, 7)
    assert_within(pairs.scores[0], 1, score_error("cosine", one, other))
    np.testing.assert_array_equal(pairs.left, order[:5])
    np.testing.assert_array_equal(pairs.right, scores.argmax(1)[order[:5]])
    assert pairs.total == (scores.max(1) >= 0.5).sum()
    with pytest.raises(InputError, match="query embeddings have 6 columns, the gallery's have 5"):
        closest_across_lists(one, other[:, :5])


def test_half_of_the_positive_pairs_are_closer_than_the_median():
    embeddings = clusters(LABELS)
    histogram = pair_histogram(QueryGallery.of(embeddings, LABELS))
    floor = median_positive(histogram)
    same = (LABELS[:, None] == LABELS) & ~np.eye(60, dtype=bool)
    scores = np.sort(cosines(embeddings.double().numpy(), embeddings.double().numpy())[same])
    below, above = scores[
        len(scores) // 2 - 1 : len(scores) // 2 + 1
    ]  # the median lies between, the floor in their bins
    assert (
        below - (histogram.edges[1] - histogram.edges[0]) - histogram.rounding_bound
        <= floor
        <= above + histogram.rounding_bound
    )
    assert median_positive(pair_histogram(QueryGallery.of(embeddings, np.arange(60)))) == -np.inf
