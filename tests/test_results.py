"""RetrievalResults: from embeddings and lists, batches of queries, relevance, invariants, files, text."""

import json

import numpy as np
import pytest
import torch

from core.errors import InputError
from retrieval.query_gallery import QueryGallery
from retrieval.relevance import Relevance
from retrieval.results import RetrievalResults
from retrieval.topk import search


def rows_and_labels(count=30, width=5):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32)), rng.integers(0, 6, count)


def floats(*lists):
    return [torch.tensor(one, dtype=torch.float32) for one in lists]


def ids(*lists):
    return [torch.tensor(one, dtype=torch.int64) for one in lists]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def test_from_embeddings_is_the_search():
    rows, labels = rows_and_labels()
    for distance in ("cosine", "squared_euclidean"):
        results = RetrievalResults.from_embeddings(rows, labels, k=7, distance=distance)
        found, scores = search(QueryGallery.of(rows, labels), 7, distance)
        assert torch.equal(results.padded_ids, found)
        assert torch.equal(results.padded_distances, 1 - scores if distance == "cosine" else -scores)
        assert results.n_retrieved_items == 7 and len(results) == 30 and not results.is_empty()
    assert RetrievalResults.from_embeddings(rows, labels, k=1000).n_retrieved_items == 29


def test_right_ids_are_those_of_the_label_less_own_row_and_sequence():
    rows, labels = rows_and_labels()
    sequences = np.arange(30) // 4
    is_query, is_gallery = np.arange(30) % 2 == 0, np.arange(30) % 3 > 0
    flags = {"is_query": is_query, "is_gallery": is_gallery, "sequences": sequences}
    results = RetrievalResults.from_embeddings(rows, labels, k=30, **flags)
    for query, row in enumerate(np.flatnonzero(is_query)):
        right = [
            i
            for i in range(30)
            if is_gallery[i] and i != row and labels[i] == labels[row] and sequences[i] != sequences[row]
        ]
        assert results.gt_ids[query].tolist() == right
        assert results.positives[query] == len(right)
        found = results.retrieved_ids[query].tolist()
        assert results.hits[query, : len(found)].tolist() == [i in right for i in found]
        assert not results.hits[query, len(found) :].any()


def test_queries_and_gallery_apart_and_in_batches():
    rows, labels = rows_and_labels(40)
    queries, gallery = rows[:15], rows[15:]
    whole = RetrievalResults.from_embeddings_qg(queries, gallery, labels[:15], labels[15:], k=6)
    assert whole.padded_ids.shape == (15, 6) and whole.padded_ids.max() < 25
    for query in range(15):
        assert whole.gt_ids[query].tolist() == np.flatnonzero(labels[15:] == labels[query]).tolist()
    batches = (batch for batch in queries.split(4))
    streamed = RetrievalResults.from_embeddings_qg(batches, gallery, labels[:15], labels[15:], k=6)
    assert torch.equal(whole.padded_ids, streamed.padded_ids) and torch.equal(whole.hits, streamed.hits)
    unknown = RetrievalResults.from_embeddings_qg([queries], gallery)
    assert unknown.gt_ids is None and unknown.n_retrieved_items == 25
    assert "nothing" not in str(unknown) and "+" not in str(unknown)
    for call in (lambda: unknown.hits, lambda: unknown.positives):
        with pytest.raises(InputError, match="labels are unknown"):
            call()


def test_lists_of_any_length():
    results = RetrievalResults(floats([0.1, 0.5], [], [0.2]), ids([3, 1], [], [0]), ids([1, 9], [4], []))
    assert results.padded_ids.tolist() == [[3, 1], [-1, -1], [0, -1]]
    assert results.counts.tolist() == [2, 0, 1] and results.positives.tolist() == [2, 1, 0]
    assert results.hits.tolist() == [[False, True], [False, False], [False, False]]
    assert equal(results.retrieved_ids, ids([3, 1], [], [0])) and equal(results.gt_ids, ids([1, 9], [4], []))
    assert equal(results.distances, floats([0.1, 0.5], [], [0.2]))
    empty = RetrievalResults(floats([], []), ids([], []), ids([], [1]))
    assert empty.is_empty() and empty.n_retrieved_items == 0 and not empty.hits.any()


@pytest.mark.parametrize(
    "distances, found, right, sentence",
    [
        (floats([0.1]), ids([1], [2]), None, "1 list of distances, 2 lists of ids: they differ"),
        (floats([0.1]), ids([1]), ids([1], [2]), "1 list of ids, 2 lists of right ids"),
        (floats([0.1, 0.2]), ids([1]), None, r"query 0: distances \(2,\) and ids \(1,\)"),
        (floats([0.1], [0.3, 0.2]), ids([1], [1, 2]), None, "query 1: distances are not ascending"),
        (floats([0.1], [0.1, float("nan")]), ids([1], [1, 2]), None, "query 1: distances hold NaN"),
        (floats([0.1, 0.2, 0.3]), ids([1, 2, 1]), None, "query 0: an id is found twice"),
        (floats([0.1]), ids([-4]), None, "query 0: ids are below 0"),
        (floats([float("inf")]), ids([4]), None, "query 0: an item is infinitely far"),
    ],
)
def test_invariants_are_checked(distances, found, right, sentence):
    with pytest.raises(InputError, match=sentence):
        RetrievalResults(distances, found, right)
    with pytest.raises(InputError, match="k is 0"):
        RetrievalResults.from_embeddings(torch.randn(3, 2), k=0)


@pytest.mark.parametrize("known", [True, False])
def test_files_hold_everything(tmp_path, known):
    rows, labels = rows_and_labels()
    results = RetrievalResults.from_embeddings(rows, labels if known else None, k=5, sequences=np.arange(30) // 3)
    results.save(tmp_path / "x.npz")
    loaded = RetrievalResults.load(tmp_path / "x.npz")
    assert torch.equal(loaded.padded_ids, results.padded_ids)
    assert torch.equal(loaded.padded_distances, results.padded_distances)
    assert loaded.gt_ids is None if not known else equal(loaded.gt_ids, results.gt_ids)
    listed = json.loads(results.to_json())
    assert [one["ids"] for one in listed] == results.padded_ids.tolist()
    assert ("right_ids" in listed[0]) == known


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", distances=np.array([{}]), ids=np.zeros((1, 1)))
    np.savez(
        tmp_path / "part.npz", distances=np.zeros((1, 1), np.float32), ids=np.zeros((1, 1), int), relevance_keys=[1]
    )
    for name, sentence in (
        ("text.npz", "no .npz file of plain arrays"),
        ("other.npz", "there is no distances, ids"),
        ("pickle.npz", "no .npz file of plain arrays"),
        ("part.npz", "holds no retrieval results"),
        ("nowhere.npz", "no file"),
    ):
        with pytest.raises(InputError, match=sentence):
            RetrievalResults.load(tmp_path / name)
    with pytest.raises(InputError, match="cannot write"):
        RetrievalResults(floats([0.1]), ids([1])).save(tmp_path / "nowhere" / "x.npz")


def test_text_shows_the_first_queries():
    results = RetrievalResults(floats([0.25, 0.5], []), ids([3, 1], []), ids([1, 9], [4]))
    assert str(results).splitlines() == [
        "2 queries, at most 2 items each, nearest first",
        "query 0: 3 0.25, 1+ 0.5",
        "query 1: nothing",
        "(id distance; + is right)",
    ]


def test_relevance_of_many_labels_is_small():
    """60,000 rows of 10 labels are 360 million right pairs; they are held once a label."""
    labels = torch.arange(60000) % 10
    relevance = Relevance.of_labels(QueryGallery.of(torch.ones(60000, 1), labels))
    assert relevance.keys.numel() == 60000 and (relevance.positives == 5999).all()
    hits = relevance.hits(torch.tensor([[10, 1, 0, -1]]).expand(60000, 4))
    assert hits[0].tolist() == [True, False, False, False] and hits[11].tolist() == [False, True, False, False]
