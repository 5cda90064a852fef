"""Queries against a gallery of their own: recall_at_k beside a naive float64 loop."""

import numpy as np
import pytest
from tolerances import about

from core.errors import InputError
from retrieval import recall_at_k


def naive(embeddings, labels, k, is_query, is_gallery):
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    hits = []
    for query in np.flatnonzero(is_query):
        others = [g for g in np.flatnonzero(is_gallery) if g != query]
        nearest = sorted(others, key=lambda g: (-float(unit[query] @ unit[g]), g))[:k]
        hits.append(any(labels[g] == labels[query] for g in nearest))
    return np.mean(hits)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_queries(seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.standard_normal((60, 6)).astype(np.float32), rng.integers(0, 15, 60)
    is_query, is_gallery = rng.random(60) < 0.5, rng.random(60) < 0.6
    found = recall_at_k(embeddings, labels, (1, 3, 10), is_query, is_gallery, memory=1)
    assert found == about({k: naive(embeddings, labels, k, is_query, is_gallery) for k in (1, 3, 10)}, 4)


def test_a_query_whose_label_is_not_in_the_gallery_is_a_miss():
    embeddings = np.eye(3, dtype=np.float32)
    flags = {"is_query": [True, False, True], "is_gallery": [False, True, False]}
    assert recall_at_k(embeddings, np.array([0, 0, 1]), (1, 5), **flags) == {1: 0.5, 5: 0.5}


def test_all_queries_and_gallery_is_one_against_the_rest():
    rng = np.random.default_rng(0)
    embeddings, labels = rng.standard_normal((40, 4)), rng.integers(0, 8, 40)
    everyone = np.ones(40, dtype=bool)
    chosen = recall_at_k(embeddings, labels, (1, 2), is_query=everyone, is_gallery=everyone)
    assert chosen == recall_at_k(embeddings, labels, (1, 2))


@pytest.mark.parametrize("mask", [[False, False], [True]])
def test_an_empty_or_misshaped_mask_is_refused(mask):
    with pytest.raises(InputError, match="is_gallery"):
        recall_at_k(np.eye(2), np.array([0, 0]), is_gallery=np.array(mask))
