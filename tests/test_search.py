"""nearest against a sort in float64."""

import numpy as np
import pytest
import torch

from retrieval.search import nearest


def by_sorting(embeddings, query, k, is_gallery):
    """Indices and cosines of one query, the naive way."""
    rows = np.asarray(embeddings, dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    others = [i for i in range(len(rows)) if i != query and is_gallery[i]]
    best = sorted(others, key=lambda i: -rows[i] @ rows[query])[:k]
    return best, [rows[i] @ rows[query] for i in best]


@pytest.mark.parametrize("part", [1.0, 0.5, 0.2])
def test_equals_a_sort_over_the_gallery(part):
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(40, 5)).astype(np.float32) * rng.uniform(0.1, 100, (40, 1)).astype(np.float32)
    is_gallery = rng.random(40) < part
    queries = [0, 7, 39, 7, int(np.flatnonzero(is_gallery)[0])]
    indices, scores = nearest(embeddings, queries, 4, is_gallery)
    assert indices.shape == scores.shape == (5, 4)
    assert indices.dtype == torch.int64 and scores.dtype == torch.float32
    for row, query in enumerate(queries):
        best, cosines = by_sorting(embeddings, query, 4, is_gallery)
        assert indices[row].tolist() == best
        assert scores[row].tolist() == pytest.approx(cosines, abs=1e-5)


def test_without_a_mask_all_are_gallery():
    embeddings = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    masked = nearest(embeddings, range(9), 3, torch.ones(9, dtype=torch.bool))
    for given, expected in zip(nearest(embeddings, list(range(9)), 3), masked):
        assert torch.equal(given, expected)


def test_a_row_finds_its_twin_but_never_itself():
    indices, scores = nearest(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), [0, 1, 2], 1)
    assert indices[:2].tolist() == [[1], [0]]
    assert scores[:, 0].tolist() == pytest.approx([1, 1, 0])


def test_k_is_clipped_to_what_every_query_can_find():
    embeddings = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert nearest(embeddings, [2], 99)[0].shape == (1, 5)
    is_gallery = torch.tensor([True, True, True, False, False, False])
    assert nearest(embeddings, [3], 99, is_gallery)[0].sort().values.tolist() == [[0, 1, 2]]
    indices, scores = nearest(embeddings, [3, 0], 99, is_gallery)
    assert indices.shape == (2, 2) and torch.isfinite(scores).all()
