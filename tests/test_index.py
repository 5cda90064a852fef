"""retrieval/index.py: every backend against a plain float64 sort, changes, readers beside writers, what is refused."""

import contextlib
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import assert_within, cosine_error

from core.errors import InputError
from retrieval.index import nearest as nearest_module
from retrieval.index.backends import BACKENDS, make_backend
from retrieval.index.changes import STALE
from retrieval.index.folder import CARD, LOCK, files_of, locked
from retrieval.index.index import SAME, Index
from retrieval.index.items import item_name, split_name
from retrieval.index.nearest import nearest

MODEL = {"model": "Tiny", "image_shape": [3, 32, 32], "weights": "abc"}
THOROUGH = [("faiss", {"faiss_kind": kind, "probes": 10_000}) for kind in ("flat", "ivf", "hnsw", "hnsw_sq8")]
CODED = [("exact", {"codes": kind}) for kind in ("float32", "binary")]
PACKAGES = {"faiss": "faiss-cpu", "qdrant_client": "qdrant-client", "qdrant_edge": "qdrant-edge-py"}
CASES = [(name, {}) for name in BACKENDS.names()] + THOROUGH + CODED


def data(count, width=16, seed=0):
    """(embeddings, paths, labels) of `count` items."""
    embeddings = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return embeddings, [f"/photos/{seed}/{i}.jpg" for i in range(count)], np.arange(count) % 5 - 1


def sorted_all(embeddings, ids, queries, k):
    """ids and cosines (Q, k) by a plain sort in float64."""
    found = []
    for query in queries.astype(np.float64):
        scored = []
        for id_, row in zip(ids, embeddings.astype(np.float64)):
            lengths = np.sqrt(row @ row) * np.sqrt(query @ query)
            scored.append((-(row @ query) / lengths if lengths else 0.0, id_))
        found.append(sorted(scored)[:k])
    ids, scores = [[id_ for _, id_ in row] for row in found], [[-score for score, _ in row] for row in found]
    return np.array(ids), np.array(scores)


def assert_finds(index, embeddings, ids, queries, k, **options):
    hits = index.search(queries, k, **options)
    expected, cosines = sorted_all(embeddings, ids, queries, k)
    assert hits.ids.tolist() == expected.tolist()
    assert_within(hits.scores, cosines, cosine_error(embeddings.shape[1]))
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32


def on_disk(folder):
    """Names in an index's folder, which are those that its card names and no others."""
    names = {path.name for path in folder.iterdir()}
    assert names == {CARD, LOCK, *files_of(json.loads((folder / CARD).read_text()))}
    return names


@pytest.fixture(params=CASES, ids=lambda case: " ".join([case[0], *map(str, case[1].values())]))
def case(request):
    """(backend, options) of every backend there is; skipped, with the reason, where its package is missing."""
    available(*request.param)
    return request.param


def available(backend, options):
    """Skip, with the reason, where no index can be made by a backend here: a package or a server is missing."""
    try:
        make_backend(backend, options)[0].refuse_new()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def built(case, tmp_path):
    """An index of 60 items by every backend."""
    return Index.build(tmp_path / "index", *data(60), MODEL, *case)


@pytest.fixture
def exact(tmp_path):
    return Index.build(tmp_path / "index", *data(60), MODEL)


def test_finds_what_a_plain_sort_finds(built):
    embeddings, paths, labels = data(60)
    queries = data(4, seed=1)[0]
    for index in (built, Index.open(built.folder)):
        assert_finds(index, embeddings, range(60), queries, 7)
        hits = index.search(queries, 7)
        assert hits.paths.tolist() == [[paths[i] for i in row] for row in hits.ids]
        assert hits.labels.tolist() == [[labels[i] for i in row] for row in hits.ids]


@pytest.mark.parametrize("at_once", [1, 7, 100_000])
def test_items_are_found_by_path_among_alike_ones(tmp_path, monkeypatch, at_once):
    """Paths of one length whose bytes have one sum, in several segments, some deleted, some no UTF-8."""
    monkeypatch.setattr("retrieval.index.segments.FACTS_AT_ONCE", at_once)
    endings = ["ab", "ba", "é", "\udcff", "aa", "bb", "c", "", "日本", "本日"]
    paths = [f"/photos/{a}/{b}.jpg" for a in endings for b in endings]
    index = Index.build(tmp_path / "index", data(60)[0], paths[:60], None, MODEL)
    index.add(data(40, seed=1)[0], paths[60:], None)
    index.delete(index.rows.ids[::3].tolist())
    stored = index.rows.paths()
    for wanted in ([], paths[1:2], paths[::7], ["/photos/nowhere.jpg", *paths[50:70]], paths):
        chosen = [number for number, path in zip(index.rows.ids.tolist(), stored, strict=True) if path in wanted]
        assert index.rows.ids_of_paths(set(wanted)).tolist() == chosen


def test_adds_and_deletes_and_never_uses_an_id_twice(built):
    everything = np.concatenate([data(60)[0], data(50, seed=1)[0], data(3, seed=2)[0]])
    queries = data(4, seed=3)[0]
    assert built.delete(["/photos/0/59.jpg", "/photos/0/3.jpg"]) == 2
    added = built.add(*data(50, seed=1), MODEL)
    assert added.ids.tolist() == list(range(60, 110)) and added[1:] == (50, 0, 0, 0, [])
    assert built.delete([109, 60]) == 2 and built.delete("/photos/0/4.jpg") == 1 and built.delete(5) == 1
    assert built.add(*data(3, seed=2)).ids.tolist() == [110, 111, 112]
    live = [i for i in range(113) if i not in (3, 4, 5, 59, 60, 109)]
    for index in (built, Index.open(built.folder)):
        assert len(index) == index.card["items"] == len(live)
        assert_finds(index, everything[live], live, queries, 20)
        assert index.rows.paths()[:4] == [f"/photos/0/{i}.jpg" for i in (0, 1, 2, 6)]
    on_disk(built.folder)


def test_deleted_items_are_not_found_however_many(built):
    """Nor are fewer than k found for their sake."""
    embeddings = data(60)[0]
    built.delete(list(range(0, 28)))
    assert_finds(built, embeddings[28:], range(28, 60), embeddings[:5], 32)
    built.delete(list(range(30, 60)))
    assert_finds(built, embeddings[28:30], [28, 29], embeddings[:5], 2)
    built.delete([28, 29])
    with pytest.raises(InputError, match="index .* is empty: there is nothing to find"):
        built.search(embeddings[:1])
    assert len(Index.open(built.folder)) == 0
    assert built.add(*data(2, seed=1)).ids.tolist() == [60, 61]
    assert_finds(built, data(2, seed=1)[0], [60, 61], embeddings[:5], 2)
    on_disk(built.folder)


def test_an_item_is_there_once(built):
    """Of one that comes twice the first is kept; one that is there with the same embedding is skipped."""
    embeddings, paths, labels = data(10, seed=1)
    paths[3] = paths[2]
    embeddings[7:], paths[7:] = 3 * data(60)[0][:3], data(60)[1][:3]  # of another length: an index goes by directions
    added = built.add(embeddings, paths, labels)
    assert added.ids.tolist() == [60, 61, 62, 63, 64, 65] and added[1:4] == (6, 0, 4)
    assert_finds(built, np.concatenate([data(60)[0], embeddings[[0, 1, 2, 4, 5, 6]]]), range(66), embeddings[2:4], 3)
    before = on_disk(built.folder)
    assert built.add(embeddings, paths, labels)[1:4] == (0, 0, 10) and on_disk(built.folder) == before


def test_an_item_whose_picture_has_changed_is_replaced(built):
    """In one generation, together with what is new; the old one is found no more, by whatever backend."""
    embeddings, paths, _ = data(60)
    others = data(5, seed=1)[0]
    generation = built.card["generation"]
    added = built.add(
        np.concatenate([others, embeddings[10:12]]), [*paths[:3], "/new/a.jpg", "/new/b.jpg", *paths[10:12]], [9] * 7
    )
    assert added.ids.tolist() == [60, 61, 62, 63, 64] and added[1:4] == (2, 3, 2)
    assert built.card["generation"] == generation + 1 and len(built) == 62
    everything = np.concatenate([embeddings, others])
    for index in (built, Index.open(built.folder)):
        assert_finds(index, everything[3:], range(3, 65), np.concatenate([embeddings[:3], others[:3]]), 9)
        assert index.rows.paths(np.arange(60, 65)) == [*paths[:3], "/new/a.jpg", "/new/b.jpg"]
    on_disk(built.folder)


@pytest.mark.parametrize("change, same", [(1e-2, True), (4e-2, True), (5e-2, False), (1, False)])
def test_rounding_does_not_replace_and_a_change_does(exact, change, same):
    """The cosine of an item and itself plus `change` at a right angle is about 1 - change ** 2 / 2."""
    embeddings, paths, labels = data(60)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    aside = np.roll(unit, 1, axis=0)
    aside -= (aside * unit).sum(1, keepdims=True) * unit
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    cosines = (unit * (unit + change * aside)).sum(1) / np.linalg.norm(unit + change * aside, axis=1)
    assert ((cosines > SAME) == same).all()
    added = exact.add(unit + change * aside, paths, labels)
    assert (added.skipped, added.replaced) == ((60, 0) if same else (0, 60))


def test_items_without_any_direction_are_the_same(exact):
    zero = np.zeros((1, 16), np.float32)
    assert exact.add(zero, ["/zero.jpg"], [1])[1:4] == (1, 0, 0)
    assert exact.add(zero, ["/zero.jpg"], [1])[1:4] == (0, 0, 1)
    assert exact.add(zero + 1, ["/zero.jpg"], [1])[1:4] == (0, 1, 0)
    assert exact.add(zero, ["/zero.jpg"], [1])[1:4] == (0, 1, 0)


BOXES = np.array([[0, 0, 64, 128], [64, 0, 128, 128], [0.5, 0, 10000.25, 7], [np.nan] * 4])


def boxed(seed=3):
    """(embeddings, paths, labels, boxes) of three boxes of one picture, the whole of it, and another picture."""
    embeddings = data(5, seed=seed)[0]
    return embeddings, ["/shelf.png"] * 4 + ["/other.png"], [1, 2, 3, 4, 5], np.concatenate([BOXES, BOXES[3:]])


def test_each_box_of_a_picture_is_an_item(case, tmp_path):
    embeddings, paths, labels, boxes = boxed()
    index = Index.build(tmp_path / "index", embeddings, paths, labels, MODEL, *case, boxes=boxes)
    assert len(index) == 5
    for opened in (index, Index.open(index.folder)):
        hits = opened.search(embeddings, 1)
        assert hits.ids[:, 0].tolist() == [0, 1, 2, 3, 4] and hits.labels[:, 0].tolist() == labels
        np.testing.assert_array_equal(hits.boxes[:, 0], boxes)
        np.testing.assert_array_equal(opened.rows.boxes(np.array([2, 0])), boxes[[2, 0]])
    assert index.add(embeddings[1:3], paths[1:3], labels[1:3], boxes=boxes[1:3])[1:4] == (0, 0, 2)
    assert index.add(embeddings[:1], paths[:1], [1], boxes=[[0, 0, 64, 129]])[1:4] == (1, 0, 0)  # another box
    assert index.add(-embeddings[1:2], paths[1:2], [2], boxes=boxes[1:2])[1:4] == (0, 1, 0)
    np.testing.assert_array_equal(index.rows.boxes(np.array([6])), boxes[1:2])
    index.add(*data(40, seed=4))  # so many that one segment takes over all: boxes are copied with their items
    assert len(index.card["segments"]) == 1
    kept = Index.open(index.folder).rows.boxes(np.array([3, 2, 6, 5]))
    np.testing.assert_array_equal(kept, np.array([*boxes[[3, 2, 1]], [0, 0, 64, 129]]))


@pytest.mark.parametrize(
    "item, gone",
    [
        ("/shelf.png", [0, 1, 2, 3]),
        ("/shelf.png#64,0,128,128", [1]),
        ("/shelf.png#64,0.0,128,1.28e2", [1]),
        ("/shelf.png#0.5,0,10000.25,7", [2]),
        (("/shelf.png", None), [3]),
        (("/shelf.png", (np.nan,) * 4), [3]),
        (("/shelf.png", (0, 0, 64, 128)), [0]),
        (("/other.png", None), [4]),
        (3, [3]),
        ("/a#0,0,1,1", [5]),
        ("/a", [6]),
    ],
    ids=str,
)
def test_an_item_is_deleted_by_path_box_name_or_id(tmp_path, item, gone):
    """A path may look like the name of a box of another, as the last items here: what is exactly there comes first."""
    embeddings, paths, labels, boxes = boxed()
    embeddings, boxes = np.concatenate([embeddings, data(2)[0]]), np.concatenate([boxes, [[np.nan] * 4, [0, 0, 1, 1]]])
    index = Index.build(tmp_path / "i", embeddings, [*paths, "/a#0,0,1,1", "/a"], [*labels, 6, 7], None, boxes=boxes)
    assert index.delete([item]) == len(gone)
    assert index.rows.ids.tolist() == [id_ for id_ in range(7) if id_ not in gone]


def test_no_two_boxes_are_called_the_same():
    assert item_name("/shelf.png", BOXES[0]) == "/shelf.png#0,0,64,128" and item_name("a", None) == "a"
    assert item_name("/shelf.png", BOXES[3]) == "/shelf.png"
    boxes = [(0, 0, 10000.25, 9), (0, 0, 10000.3, 9), (0, 0, 123456.5, 9), (0, 0, 123457, 9), (1 / 3, 0, 1, 9)]
    names = [item_name("x#y", np.array(box)) for box in boxes]
    assert len(set(names)) == len(names) and [split_name(name) for name in names] == [("x#y", box) for box in boxes]
    for text in ("plain.png", "a#b.png", "a#1,2,3", "a#1,2,3,x", "#"):
        assert split_name(text) == (text, None)


LABELS = {
    "integers": np.array([-1, 7, 2**63 - 1, -(2**63), 7]),
    "small integers": np.array([-1, 7, 3, 7, 0], np.int8),
    "strings": np.array(["007", "7", "", "nine o’clock", "7"]),
    "a mixture": np.array([7, "7", None, "\udce9", -1], dtype=object),
    "a list": [7, "7", None, np.int32(7), np.str_("x")],
    "unknown": None,
    "all unknown": [None] * 5,
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_stay_what_they_are(tmp_path, kind):
    """Integers integers, strings strings, -1 a label like any other, and unknown None, through all changes."""
    given = LABELS[kind]
    expected = [None] * 5 if given is None else [getattr(one, "item", lambda one=one: one)() for one in given]
    embeddings, paths, _ = data(5)

    def same(found):
        assert [(type(one), one) for one in found] == [(type(one), one) for one in expected]

    index = Index.build(tmp_path / "index", embeddings, paths, given, None)
    index.add(data(1, seed=1)[0], ["/of/another/segment"], ["7"])
    for opened in (index, Index.open(tmp_path / "index")):
        same(opened.rows.labels()[:5].tolist())
        same(opened.search(embeddings, 1).labels[:, 0].tolist())
    index.add(*data(20, seed=2)[:2], ["other"] * 20)  # which takes all into one segment
    index.delete([5])
    assert len(index.card["segments"]) == 1
    same(Index.open(tmp_path / "index").rows.labels(np.arange(5)).tolist())


@pytest.mark.parametrize("now, kept", [(None, "b"), ("c", "c"), (3, 3)])
def test_a_replaced_item_keeps_its_label_where_it_comes_without(exact, now, kept):
    exact.add(data(3, seed=1)[0], ["/1.jpg", "/2.jpg", "/3.jpg"], ["a", "b", None])
    added = exact.add(data(4, seed=2)[0], ["/new.jpg", "/2.jpg", "/3.jpg", "/newer.jpg"], [None, now, None, "d"])
    assert added[1:4] == (2, 2, 0)
    assert exact.rows.labels(added.ids).tolist() == [None, kept, None, "d"]


def test_another_label_of_a_skipped_item_is_told(exact):
    embeddings, paths, labels = data(60)
    now = [str(labels[0]), None, "other", *labels[3:].tolist()]  # the same, nothing, another
    assert exact.add(embeddings, paths, now)[1:] == (0, 0, 60, 1, [])
    assert exact.rows.labels().tolist() == labels.tolist()


def test_names_of_labels_are_kept(exact):
    embeddings, paths, _ = data(4, seed=1)
    index = exact
    assert index.names == {} and index.card["names"] is None
    added = index.add(embeddings, paths, [1318, "x", 5, None], names={"1318": "nine o'clock", "x": "ü", "8": "unused"})
    assert index.names == {"1318": "nine o'clock", "x": "ü"} and added.renamed == []
    index.delete([0])
    index.add(*data(3, seed=2))
    assert Index.open(index.folder).names == index.names and index.card["names"] == "names-000002.json"
    on_disk(index.folder)
    added = index.add(data(2, seed=3)[0], ["/y", "/z"], [1318, 5], names={"1318": "ten o'clock", "5": "five"})
    assert index.names == {"1318": "ten o'clock", "x": "ü", "5": "five"}  # the newer wins, and is told
    assert added.renamed == [("1318", "nine o'clock", "ten o'clock")]
    generation = index.card["generation"]
    again = index.add(embeddings, paths, [1318, "x", 5, None], names={"x": "v"})  # nothing new but a name
    assert again[1:] == (0, 0, 4, 0, [("x", "ü", "v")]) and index.names["x"] == "v"
    assert index.card["generation"] == generation + 1
    on_disk(index.folder)
    Index.build(index.folder, *data(3), None, overwrite=True)
    assert Index.open(index.folder).names == {}
    on_disk(index.folder)


def test_equal_items_go_by_id_and_a_zero_one_has_cosine_zero(exact, tmp_path):
    embeddings = np.repeat(data(3)[0], 40, axis=0)
    embeddings[7] = 0
    index = Index.build(tmp_path / "ties", embeddings, [str(i) for i in range(120)], [-1] * 120, None)
    queries = np.concatenate([embeddings[[0, 50, 7]], data(2, seed=1)[0]])
    for memory in (1, 2**12, 2**28):
        assert_finds(index, embeddings, range(120), queries, 120, memory=memory)
    assert index.search(queries[2:3], 3).scores.tolist() == [[0, 0, 0]]


def test_zero_embeddings_everywhere(case, tmp_path):
    embeddings = data(30)[0]
    embeddings[::3] = 0
    index = Index.build(tmp_path / "index", embeddings, data(30)[1], data(30)[2], MODEL, *case)
    hits = index.search(embeddings[:4], 30)
    assert (hits.scores[0] == 0).all()
    assert_within(hits.scores[1, 0], 1, cosine_error(16))
    assert (hits.scores[1][np.isin(hits.ids[1], np.arange(0, 30, 3))] == 0).all()


@pytest.mark.parametrize("memory", [1, 2**10, 2**14, 2**20])
def test_memory_does_not_change_the_result(exact, memory):
    for seed in range(1, 4):
        exact.add(*data(9 * seed, seed=seed))
    queries = data(5, seed=7)[0]
    ids, scores = nearest(exact.rows, queries, 12, memory)
    hits = exact.search(queries, 12)
    assert (ids == hits.ids).all() and (scores == hits.scores).all()


def test_k_beyond_the_index_means_all_of_it(built):
    assert built.search(data(2, seed=1)[0], 1000).ids.shape == (2, 60)


def test_tensors_and_half_types_are_taken(exact):
    queries = torch.from_numpy(data(3, seed=1)[0])
    for form in (queries.double(), queries.requires_grad_(), queries.detach().numpy().astype(np.float64)):
        assert (exact.search(form, 5).ids == exact.search(queries, 5).ids).all()
    assert exact.search(queries.half(), 5).ids.shape == (3, 5)


def test_single_adds_leave_few_segments(exact):
    for seed in range(1, 40):
        exact.add(*data(1, seed=seed))
    assert len(exact.card["segments"]) <= 7 and len(exact) == 99
    assert sum(len(segment.ids) for segment in exact.rows.segments) == 99
    everything = np.concatenate([data(60)[0], *(data(1, seed=seed)[0] for seed in range(1, 40))])
    assert_finds(exact, everything, range(99), data(3, seed=50)[0], 10)
    on_disk(exact.folder)


def test_adding_a_few_rewrites_few(exact):
    first = exact.folder / exact.card["segments"][0] / "embeddings.npy"
    written = first.stat().st_mtime_ns
    exact.add(*data(3, seed=1))
    exact.delete([0, 1])
    assert first.stat().st_mtime_ns == written and exact.rows.deleted.tolist() == [0, 1]


def test_strange_paths_survive(exact):
    paths = ["/a b/ü.jpg", "/" + "x" * 300, "", "/\udcff.jpg", "relative.png"]
    exact.add(data(5, seed=1)[0], paths, [7] * 5)
    assert Index.open(exact.folder).rows.paths()[-5:] == paths


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "hnsw", "hnsw_sq8"])
@pytest.mark.parametrize("count, width", [(1, 3), (2, 8), (30, 7), (700, 32)])
def test_approximate_indexes_of_any_size_measure_their_recall(tmp_path, capfd, kind, count, width):
    pytest.importorskip("faiss")
    index = Index.build(tmp_path / "index", *data(count, width), MODEL, "faiss", {"faiss_kind": kind})
    recall = index.card["recall"]
    assert recall["at"] == 10 and recall["items"] == recall["queries"] == count and 0.9 < recall["value"] <= 1
    assert json.loads((index.folder / CARD).read_text())["recall"] == recall
    hits = index.search(data(count, width)[0], 1)
    assert (hits.ids[:, 0] == np.arange(count)).mean() > 0.95
    index.add(*data(5 * count, width, seed=1))  # so many that it is made anew
    assert index.card["recall"]["items"] == 6 * count
    assert capfd.readouterr() == ("", "")  # FAISS writes to the console itself


def test_faiss_is_not_made_anew_for_little(tmp_path):
    pytest.importorskip("faiss")
    index = Index.build(tmp_path / "index", *data(60), MODEL, "faiss", {"faiss_kind": "ivf", "lists": 4, "probes": 1})
    built = index.card["state"]
    index.add(*data(20, seed=1))
    index.delete([0, 1, 2])
    state = index.card["state"]
    assert state["built"] == built["built"] and state["stored"] == 80 and state["factory"] == "IVF4,Flat"
    index.delete(list(range(10, 60)))
    index.add(*data(1, seed=2))
    assert index.card["state"]["stored"] == len(index) == 28


def test_options_are_kept(tmp_path):
    pytest.importorskip("faiss")
    index = Index.build(tmp_path / "index", *data(60), MODEL, "faiss", {"faiss_kind": "ivf", "lists": 3})
    options = {"faiss_kind": "ivf", "lists": 3, "probes": 0, "code_bytes": 0, "links": 0}
    assert index.card["options"] == options and index.card["state"]["factory"] == "IVF3,Flat"


@pytest.mark.parametrize("module, package", PACKAGES.items())
def test_a_missing_package_is_named(monkeypatch, tmp_path, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    backend = module.removesuffix("_client")
    options = {"qdrant": {"qdrant_url": "http://localhost:6333"}}.get(backend, {})
    with pytest.raises(InputError, match=f"the backend {backend} needs .*: pip install {package}$"):
        Index.build(tmp_path / "index", *data(3), MODEL, backend, options)
    assert not (tmp_path / "index").exists()


def test_a_reader_sees_one_generation_while_another_process_writes(built):
    embeddings = data(60)[0]
    early, late = Index.open(built.folder), Index.open(built.folder)
    early.search(embeddings[:1])
    built.delete(list(range(40)))  # a new segment takes over: files that the readers hold are removed
    built.add(*data(30, seed=1))
    assert_finds(early, embeddings, range(60), embeddings[:3], 5)
    hits = late.search(embeddings[:3], 5)  # its first search: by then it may have had to move on
    if len(late) == 60:
        assert_finds(late, embeddings, range(60), embeddings[:3], 5)
    else:
        assert len(late) == 50 and (hits.ids >= 40).all()
    early.delete([40])  # a change starts from what is there, not from what the changer saw
    assert len(early) == 49 and len(Index.open(built.folder)) == 49


def test_only_one_changes_at_a_time(exact):
    before = (exact.folder / CARD).read_text()
    with locked(exact.folder):
        for change in (lambda: exact.add(*data(3, seed=1)), lambda: exact.delete([0])):
            with pytest.raises(InputError, match="another process is changing index .*; try again when it is done"):
                change()
        with pytest.raises(InputError, match="another process is changing"):
            Index.build(exact.folder, *data(3), MODEL, overwrite=True)
        assert len(Index.open(exact.folder).search(data(1)[0], 3).ids) == 1
    assert (exact.folder / CARD).read_text() == before
    exact.delete([0])


def test_building_over_an_index_replaces_it(case, exact):
    with pytest.raises(InputError, match="already holds an index; add to it, or replace it with --overwrite=True"):
        Index.build(exact.folder, *data(9, seed=1), MODEL, *case)
    index = Index.build(exact.folder, *data(9, 8, seed=1), MODEL, *case, overwrite=True)
    assert (index.card["generation"], index.card["next_id"], index.card["width"]) == (2, 69, 8)
    assert_finds(Index.open(exact.folder), data(9, 8, seed=1)[0], range(60, 69), data(2, 8, seed=2)[0], 4)
    on_disk(exact.folder)


def test_a_failing_disk_leaves_a_whole_index(case, tmp_path, monkeypatch):
    """Whichever write fails, the old index or the new one is there, nothing is left behind, and a change works."""
    first, synced, step = Index.build(tmp_path / "first", *data(20), MODEL, *case), [], 0
    sizes = []
    while not sizes or len(synced) >= step:
        step, index = step + 1, Index.open(shutil.copytree(first.folder, tmp_path / str(step)))
        synced.clear()

        def failing(handle, fsync=os.fsync, step=step):
            synced.append(handle)
            if len(synced) == step:
                raise OSError(28, "No space left on device")
            fsync(handle)

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", failing)
            with contextlib.suppress(InputError):
                index.add(*data(30, seed=1))
        sizes.append(len(Index.open(index.folder)))
        on_disk(index.folder)
        index.add(*data(5, seed=2))
        assert len(index) == sizes[-1] + 5 and len(index.search(data(1)[0], 3).ids) == 1
        on_disk(index.folder)
    assert len(sizes) > 8 and sizes == sorted(sizes) and set(sizes) == {20, 50}


def test_a_full_disk_is_named(exact, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="cannot write to index '.*index': No space left on device"):
        exact.delete([0])


MISTAKES = {
    "embeddings are .*int64; an index takes": (np.zeros((3, 2), int), ["a", "b", "c"], [1, 1, 1]),
    r"embeddings are \(3,\)": (np.zeros(3, np.float32), ["a", "b", "c"], [1, 1, 1]),
    r"embeddings are \(0, 2\)": (np.zeros((0, 2), np.float32), [], []),
    r"embeddings are \(3, 0\)": (np.zeros((3, 0), np.float32), ["a", "b", "c"], [1, 1, 1]),
    "2 of 3 embeddings are NaN or infinite: 'b', 'c'": (
        np.float32([[1, 2], [np.nan, 1], [1, np.inf]]),
        ["a", "b", "c"],
        [1, 1, 1],
    ),
    "3 embeddings, 2 paths": (np.ones((3, 2), np.float32), ["a", "b"], [1, 1, 1]),
    r"the path '.ud800' holds a character": (np.ones((3, 2), np.float32), ["a", "\ud800", "c"], [1, 1, 1]),
    r"labels are \(2,\) object for 3 embeddings": (np.ones((3, 2), np.float32), ["a", "b", "c"], [1, 1]),
    r"labels are \(3,\) float64": (np.ones((3, 2), np.float32), ["a", "b", "c"], np.ones(3)),
    r"labels are \(3,\) bool": (np.ones((3, 2), np.float32), ["a", "b", "c"], np.ones(3, bool)),
    r"labels are \(3, 1\)": (np.ones((3, 2), np.float32), ["a", "b", "c"], [[1], [1], [1]]),
    "the label 1.0 is float; a label of an index is an integer": (np.ones((3, 2)), ["a", "b", "c"], [2, 1.0, None]),
    "the label True is bool": (np.ones((3, 2), np.float32), ["a", "b", "c"], [2, True, None]),
    "the label 9223372036854775808 is int": (np.ones((3, 2)), ["a", "b", "c"], np.array([1, 2**63, 3], np.uint64)),
    "the label -9223372036854775809 is int": (np.ones((3, 2)), ["a", "b", "c"], ["a", -(2**63) - 1, 3]),
    r"boxes are \(3, 3\) for 3 embeddings": (np.ones((3, 2)), ["a", "b", "c"], None, None, np.ones((3, 3))),
    r"box \[2.0, 0.0, 2.0, 5.0\] of row 1 is not 0 <= left < right": (
        np.ones((3, 2)),
        ["a", "b", "c"],
        None,
        None,
        [[0, 0, 2, 5], [2, 0, 2, 5], [np.nan] * 4],
    ),
    r"box \[nan, 0.0, 2.0, 5.0\] of row 2": (
        np.ones((3, 2)),
        ["a", "b", "c"],
        None,
        None,
        [[0, 0, 2, 5], [1, 0, 2, 5], [np.nan, 0, 2, 5]],
    ),
    "; 3 of 3 are wrong": (
        np.ones((3, 2)),
        ["a", "b", "c"],
        None,
        None,
        [[0, 0, 2, np.inf], [-1, 0, 2, 5], [0, 5, 2, 0]],
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_arrays_that_do_not_fit(exact, tmp_path, sentence):
    before = (exact.folder / CARD).read_text()
    embeddings, paths, labels, _, boxes = (*MISTAKES[sentence], None, None)[:5]
    embeddings = embeddings if embeddings.ndim < 2 or 0 in embeddings.shape else np.repeat(embeddings, 8, axis=1)
    with pytest.raises(InputError, match=sentence):
        exact.add(embeddings, paths, labels, boxes=boxes)
    with pytest.raises(InputError, match=sentence):
        Index.build(tmp_path / "new", embeddings, paths, labels, MODEL, boxes=boxes)
    assert (exact.folder / CARD).read_text() == before and not (tmp_path / "new").exists()


def test_other_models_and_widths_are_refused(exact):
    for other, words in {
        "the weights$": {**MODEL, "weights": "xyz"},
        r"image_shape: \[3, 32, 32\] there, \[3, 64, 64\] here$": {**MODEL, "image_shape": [3, 64, 64]},
        "model: Tiny there, ResNet18 here; the weights": {**MODEL, "model": "ResNet18", "weights": "x"},
        "pooling: None there, avg here": {**MODEL, "pooling": "avg"},
    }.items():
        for act in (lambda: exact.add(*data(3, seed=1), words), lambda: exact.search(data(1)[0], 3, words)):
            with pytest.raises(InputError, match=f"index .* was made by another model; what differs: {other}"):
                act()
    for act in (lambda: exact.add(*data(3, 8, seed=1)), lambda: exact.search(data(1, 8)[0])):
        with pytest.raises(InputError, match="index .* holds embeddings of 16 numbers; these have 8"):
            act()


def test_searches_and_deletions_that_cannot_be(exact):
    before = (exact.folder / CARD).read_text()
    for k in (0, -1):
        with pytest.raises(InputError, match=f"k is {k}; at least one"):
            exact.search(data(1)[0], k)
    with pytest.raises(InputError, match="1 of 2 embeddings is NaN or infinite: query 1"):
        exact.search(np.float32([[1] * 16, [np.nan] * 16]))
    for items, name in (([0, 99, -1], "99"), (["/photos/0/1.jpg", "/photos/9.jpg"], "'/photos/9.jpg'"), ([-1], "-1")):
        with pytest.raises(InputError, match=f"{name} is not in index .*; nothing is deleted"):
            exact.delete(items)
    assert exact.delete([]) == 0 and (exact.folder / CARD).read_text() == before


@pytest.mark.parametrize(
    "backend, options, sentence",
    [
        ("exakt", {}, "unknown backend 'exakt'; .* Did you mean 'exact'"),
        ("exact", {"lists": 3}, "the backend exact has no option 'lists'"),
        (
            "faiss",
            {"faiss_kind": "hnws"},
            "'hnws' is none of auto, flat, ivf, ivfpq, hnsw, hnsw_sq8. Did you mean 'hnsw'",
        ),
        ("faiss", {"list": 3}, "no option 'list'. Did you mean 'lists'"),
        ("faiss", {"lists": "3"}, "lists is '3'; the backend faiss takes int"),
        ("faiss", {"lists": 61}, "lists is 61, but there are only 60 items"),
        ("faiss", {"probes": -1}, "probes is -1"),
        ("faiss", {"code_bytes": 5}, "code_bytes is 5, which does not divide the width 16"),
        ("faiss", {"links": 1}, "links is 1"),
        ("qdrant_edge", {"probes": 0}, "probes is 0; qdrant_edge needs 1 or more"),
        ("qdrant", {"qdrant_url": "localhost"}, "'localhost' is no address such as http://localhost:6333"),
        ("qdrant", {"qdrant_url": "http://127.0.0.1:1"}, "Qdrant at http://127.0.0.1:1 does not answer"),
    ],
)
def test_backends_that_cannot_be(tmp_path, backend, options, sentence):
    if backend in BACKENDS.names():
        pytest.importorskip(
            {"faiss": "faiss", "qdrant": "qdrant_client", "qdrant_edge": "qdrant_edge"}.get(backend, "numpy")
        )
    with pytest.raises(InputError, match=sentence):
        Index.build(tmp_path / "index", *data(60), MODEL, backend, options)
    assert not (tmp_path / "index").exists()


def test_folders_that_hold_something_else(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for name, sentence in (("run", "holds 'config.json'; an index takes a folder of its own"), ("file", "is a file")):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=sentence):
                Index.build(tmp_path / name, *data(3), MODEL, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    with pytest.raises(InputError, match="is no index: there is no '.*index.json'"):
        Index.open(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert len(Index.build(tmp_path / "empty", *data(3), MODEL)) == 3


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), "w")


COLUMNS = ("ids", "label_codes", "boxes", "lengths", "paths", "path_ends", "embeddings")


@pytest.mark.parametrize("name", [*COLUMNS, "deleted"])
@pytest.mark.parametrize("form", ["pickle", "array"])
def test_pickles_in_an_index_are_not_run(exact, tmp_path, name, form):
    exact.delete([0])
    folder = exact.folder / exact.card["segments"][0]
    path = exact.folder / exact.card["deleted"] if name == "deleted" else folder / f"{name}.npy"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Malicious(tmp_path / "witness")))
    else:
        np.save(path, np.array([Malicious(tmp_path / "witness")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="is no .npy file of a plain array"):
        Index.open(exact.folder)
    assert not (tmp_path / "witness").exists()


def damaged(card, **changes):
    return {**card, **changes}


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda card: "{", "cannot read"),
        (lambda card: "[" * 10**5, "cannot read"),
        (lambda card: [1], "has the format None; this program reads the formats 1 and 2"),
        (lambda card: damaged(card, format=3), "has the format 3; this program reads the formats 1 and 2"),
        (lambda card: damaged(card, format=[2]), "has the format list; this program reads the formats 1 and 2"),
        (lambda card: damaged(card, names="../names.json"), "damaged: it names '../names.json'"),
        (lambda card: damaged(card, names="names-000001.json"), "is damaged: there is no '.*names-000001.json"),
        (lambda card: damaged(card, names=card["segments"][0]), "cannot read '.*segment-000001': .*directory"),
        (lambda card: damaged(card, width="wide"), "is damaged: width"),
        (lambda card: {name: value for name, value in card.items() if name != "next_id"}, "is damaged: next_id"),
        (lambda card: damaged(card, segments=["../../photos"]), "damaged: it names '../../photos'"),
        (lambda card: damaged(card, deleted="/etc/passwd"), "damaged: it names '/etc/passwd'"),
        (lambda card: damaged(card, segments=["segment-000000"]), "is damaged: there is no '.*segment-000000"),
        (lambda card: damaged(card, width=8), r"is damaged: embeddings \(60, 16\)"),
    ],
)
def test_damaged_cards_are_named(exact, change, sentence):
    content = change(exact.card)
    (exact.folder / CARD).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        Index.open(exact.folder)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("form", ["shorter", "other kind", "cut", "gone"])
def test_damaged_columns_are_named(exact, name, form):
    file = exact.folder / exact.card["segments"][0] / f"{name}.npy"
    column = np.load(file)
    if form == "shorter":
        np.save(file, column[:-1])
    elif form == "other kind":
        np.save(file, np.full(column.shape, "x"))
    elif form == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        file.unlink()
    with pytest.raises(InputError, match=rf"{name}.npy" if form in ("cut", "gone") else "segment-000001' is damaged: "):
        Index.open(exact.folder)


def test_a_missing_segment_is_named(exact):
    shutil.rmtree(exact.folder / exact.card["segments"][0])
    with pytest.raises(InputError, match="is damaged: there is no"):
        Index.open(exact.folder)


ODD_LABELS = {
    "[": "cannot read '.*labels.json'",
    "[" * 10**5: "cannot read '.*labels.json'",
    "\xff": "cannot read '.*labels.json'",
    '{"1": 2}': "labels.json' is damaged: the labels are no list but dict",
    "[-1, 0, 1, 2.5]": "labels.json' is damaged: label 3 is neither an integer of 64 bits nor a string",
    "[-1, 0, 1, true]": "label 3 is neither an integer",
    "[-1, 0, null, 2, 3]": "label 2 is neither an integer",
    "[-1, 0, 1, 9223372036854775808, 3]": "label 3 is neither an integer",
    "[-1, 0, 1, [2], 3]": "label 3 is neither an integer",
    "[-1, 0, 1, NaN, 3]": "label 3 is neither an integer",
    '["a", "b", "a", 2, 3]': "labels.json' is damaged: a label comes twice",
    "[-1, 0, 1, 2]": "labels.json' is damaged: label codes reach from 0 to 4 for 4 labels",
}


@pytest.mark.parametrize("content", ODD_LABELS, ids=lambda content: content[:20])
def test_odd_labels_of_a_stranger_are_refused(exact, content):
    (exact.folder / exact.card["segments"][0] / "labels.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=ODD_LABELS[content]) as caught:
        Index.open(exact.folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_odd_codes_of_labels_are_refused(exact):
    file = exact.folder / exact.card["segments"][0] / "label_codes.npy"
    codes = np.load(file)
    codes[3] = -2
    np.save(file, codes)
    with pytest.raises(InputError, match="labels.json' is damaged: label codes reach from -2 to 4 for 5 labels"):
        Index.open(exact.folder)


@pytest.mark.parametrize(
    "box",
    [[0, 0, 0, 5], [3, 0, 2, 5], [-1, 0, 2, 5], [0, 0, np.inf, 5], [np.nan, 0, 1, 1], [np.nan, np.nan, np.nan, 3]],
    ids=str,
)
def test_odd_boxes_of_a_stranger_are_refused(exact, box):
    file = exact.folder / exact.card["segments"][0] / "boxes.npy"
    boxes = np.load(file)
    boxes[59] = box
    np.save(file, boxes)
    with pytest.raises(InputError, match=r"segment-000001' is damaged: the box \[.*\] is not 0 <= left < right, 0 <="):
        Index.open(exact.folder)


@pytest.mark.parametrize("content", ["{", "[" * 10**5, "[1]", '{"1": 2}', '{"1": null}', '"text"', "\xff"])
def test_odd_names_of_a_stranger_are_refused(exact, content):
    exact.add(*data(3, seed=1), names={"1": "one"})
    (exact.folder / exact.card["names"]).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="names-000002.json'( is damaged: names of labels have to be|: )") as caught:
        Index.open(exact.folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# The recall that an approximate index tells of itself


def clouds():
    """Two sets of items, 600 and 900, around centres of their own."""
    rng = np.random.default_rng(0)

    def cloud(count):
        centres = 3 * rng.normal(size=(20, 16))
        return (centres[rng.integers(0, 20, count)] + rng.normal(size=(count, 16))).astype(np.float32)

    return cloud(600), cloud(900)


def true_recall(index, embeddings):
    """The share of the ten nearest other items that a search finds, over all items, by a plain sort."""
    ids = index.rows.ids
    unit = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(float)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    right = ids[np.argsort(-cosines, axis=1)[:, :10]]
    found = [[id_ for id_ in row if id_ != own][:10] for own, row in zip(ids, index.search(embeddings, 11).ids)]
    return np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(found, right)])


@pytest.fixture
def few_probes(tmp_path):
    """An index by lists of which too few are looked through for items of another kind."""
    pytest.importorskip("faiss")
    options = {"faiss_kind": "ivf", "lists": 40, "probes": 3}
    return Index.build(tmp_path / "index", clouds()[0], [f"/{i}" for i in range(600)], None, None, "faiss", options)


def test_recall_is_measured_anew_after_many_changes(few_probes):
    first, second = clouds()
    built = few_probes.card["recall"]
    assert built["changes"] == 0 and built["when_built"] == built["value"] and built["items"] == 600
    assert built["value"] == pytest.approx(true_recall(few_probes, first), abs=0.01)
    few_probes.add(second, [f"/more/{i}" for i in range(900)], None)
    recall = Index.open(few_probes.folder).card["recall"]
    assert (recall["changes"], recall["items"], recall["queries"]) == (0, 1500, 1000)
    assert few_probes.card["state"]["built"] == 1 and recall["when_built"] == built["value"]
    assert recall["value"] < built["value"] - 0.05  # it has become worse, and says so
    assert recall["value"] == pytest.approx(true_recall(few_probes, np.concatenate([first, second])), abs=0.02)
    few_probes.delete(list(range(0, 1500, 2)))
    recall = few_probes.card["recall"]
    assert (recall["changes"], recall["items"], recall["queries"]) == (0, 750, 750)
    left = np.concatenate([first, second])[1::2]
    assert recall["value"] == pytest.approx(true_recall(few_probes, left), abs=0.01)


def test_few_changes_are_counted(few_probes):
    """Up to a twentieth of the items; one that is replaced has both gone and come."""
    assert STALE == 0.05  # of 600 items: 30
    built, (_, second) = few_probes.card["recall"], clouds()
    few_probes.add(second[:10], [f"/more/{i}" for i in range(10)], None)
    few_probes.delete([3, 4, 5])
    few_probes.add(second[10:18], [f"/{i}" for i in range(100, 108)], None)
    assert few_probes.add(second[:10], [f"/more/{i}" for i in range(10)], None).skipped == 10
    assert few_probes.card["recall"] == {**built, "changes": 29}
    few_probes.delete([9])
    recall = few_probes.card["recall"]
    assert (recall["changes"], recall["items"]) == (0, 606) and recall["when_built"] == built["value"]


def test_an_index_made_anew_forgets_the_recall_before(few_probes):
    built = few_probes.card["recall"]["value"]
    few_probes.add(data(1900, seed=5)[0], [f"/more/{i}" for i in range(1900)], None)  # four times as many
    recall = few_probes.card["recall"]
    assert few_probes.card["state"]["built"] == 2 and recall["when_built"] == recall["value"] != built
    few_probes.delete(few_probes.rows.ids)
    assert few_probes.card["recall"] is None
    few_probes.add(data(3)[0], ["/a", "/b", "/c"], None)
    assert few_probes.card["recall"]["items"] == 3


def test_what_misses_nothing_has_no_recall(built):
    built.add(*data(50, seed=1))
    if not built.card["state"]["approximate"]:
        assert built.card["recall"] is None


# Indexes of format 1


OLD = Path(__file__).parent / "data"
OLD_NUMBERS = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
OLD_PATHS = [f"/photos/{i}.jpg" for i in range(40)]
OLD_PATHS[3] = "/photos/caf\udce9.jpg"
OLD_LABELS = [None if i % 5 == 0 else i % 5 - 1 for i in range(40)]  # an unknown one is -1 there


@pytest.fixture
def old(tmp_path):
    """A copy of an index of format 1: 16 items in two segments, of which those with the ids 1 and 13 are deleted."""
    return Index.open(shutil.copytree(OLD / "index_format_1", tmp_path / "old"))


def test_an_index_of_format_1_is_searched_as_it_is(old):
    before = {path: path.read_bytes() for path in sorted(old.folder.rglob("*")) if path.is_file()}
    live = [i for i in range(16) if i not in (1, 13)]
    assert old.card["format"] == 1 and old.rows.ids.tolist() == live and old.names == {}
    assert old.rows.paths() == [OLD_PATHS[i] for i in live]
    assert old.rows.labels().tolist() == [OLD_LABELS[i] for i in live] and np.isnan(old.rows.boxes()).all()
    assert_finds(old, OLD_NUMBERS[live], live, OLD_NUMBERS[:5], 6, fingerprint=MODEL)
    hits = old.search(OLD_NUMBERS[[0, 3]], 1)
    assert hits.labels.tolist() == [[None], [2]] and hits.paths.tolist() == [[OLD_PATHS[0]], [OLD_PATHS[3]]]
    assert {path: path.read_bytes() for path in sorted(old.folder.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize("few", [True, False])
def test_an_index_of_format_1_becomes_one_of_format_2_by_a_change(old, few):
    """few: so that its segments stay as they are, beside a new one; else one segment takes all over."""
    count = 1 if few else 24
    paths = ["/a.jpg", *OLD_PATHS[17 : 16 + count]]
    added = old.add(OLD_NUMBERS[16 : 16 + count], paths, [-1] * count, names={"-1": "minus"})
    assert added.new == count
    old.add(-OLD_NUMBERS[4:5], OLD_PATHS[4:5], None)  # its picture has changed, its label has not
    old.delete(OLD_PATHS[2])
    live = [i for i in range(16 + count) if i not in (1, 2, 4, 13)] + [16 + count]
    numbers = np.concatenate([OLD_NUMBERS[: 16 + count], -OLD_NUMBERS[4:5]])
    labels = OLD_LABELS[:16] + [-1] * count + [OLD_LABELS[4]]
    for index in (old, Index.open(old.folder)):
        assert index.card["format"] == 2 and index.names == {"-1": "minus"}
        assert_finds(index, numbers[live], live, OLD_NUMBERS[:5], 6)
        assert index.rows.labels().tolist() == [labels[i] for i in live] and np.isnan(index.rows.boxes()).all()
    assert ((old.folder / "segment-000001" / "labels.npy").exists()) == few
    on_disk(old.folder)


def test_changes_since_are_unknown_in_format_1(tmp_path):
    """Its recall is that of the building, before an add; the next change measures it."""
    pytest.importorskip("faiss")
    index = Index.open(shutil.copytree(OLD / "index_format_1_ivf", tmp_path / "old"))
    assert index.card["recall"] == {"at": 10, "value": 0.755, "queries": 40, "items": 40}
    index.delete([0])
    recall = index.card["recall"]
    assert (recall["changes"], recall["items"], recall["queries"], recall["when_built"]) == (0, 42, 42, 0.755)


def test_damaged_labels_of_format_1_are_named(old):
    file = old.folder / "segment-000001" / "labels.npy"
    for labels in (np.load(file)[:-1], np.full(12, "x"), np.ones((12, 1), int)):
        np.save(file, labels)
        with pytest.raises(InputError, match="segment-000001' is damaged"):
            Index.open(old.folder)
    file.unlink()
    with pytest.raises(InputError, match="is damaged: there is no '.*label_codes.npy'"):
        Index.open(old.folder)


def test_new_facts_in_a_card_of_format_1_do_not_count(old):
    card = json.loads((old.folder / CARD).read_text())
    recall = {"at": 10, "value": 0.5, "queries": 3, "items": 3}
    card |= {"names": "../x", "recall": {**recall, "changes": "x", "when_built": 7}}
    (old.folder / CARD).write_text(json.dumps(card))
    index = Index.open(old.folder)
    assert index.names == {} and index.card["recall"] == recall


@pytest.mark.parametrize("width", [1, 5, 64, 300])
@pytest.mark.parametrize("kind", ["random", "alike", "scales", "extremes", "equal"])
def test_few_queries_find_what_many_do(tmp_path, width, kind):
    """To the bit: products of rows as they are only say which items may be among the nearest."""
    rng = np.random.default_rng(width)
    items = rng.standard_normal((700, width)).astype(np.float32)
    queries = rng.standard_normal((6, width)).astype(np.float32)
    if kind == "alike":
        items = items[:1] + 1e-4 * items
    if kind == "scales":
        items *= 10.0 ** rng.integers(-9, 9, (700, 1))
    if kind == "extremes":
        items[::50] *= np.float32(1e-30)
        items[1::50] *= np.float32(1e30)
    if kind == "equal":
        items = items[rng.integers(0, 9, 700)]
        items[:40], queries[0] = 0, 0
    paths = [f"{row}.jpg" for row in range(700)]
    index = Index.build(tmp_path / "i", items, paths, None, None, options={"codes": "float32"})
    index.add(items[:30] + 1, [f"more/{row}.jpg" for row in range(30)], None)
    index.delete([3, 5, 8])
    among = index.rows.ids[::3]
    for k, memory, chosen in ((1, 2**24, None), (10, 2**15, None), (len(index), 2**24, None), (7, 2**18, among)):
        words = (index.rows, queries, k, memory, chosen)
        ids, scores = nearest_module.nearest(*words)
        expected_ids, expected = nearest_module._nearest_of_many(*words)
        assert np.array_equal(ids, expected_ids) and np.array_equal(scores, expected)
    proven = nearest_module._nearest_of_few(index.rows, queries, 10, 2**24, None)[2]
    if kind == "random" and width > 5:
        assert proven.all()
