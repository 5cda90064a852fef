"""retrieval/index.py: every backend against a plain float64 sort, changes, readers beside writers, what is refused."""

import contextlib
import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from tolerances import assert_within, cosine_error

from errors import InputError
from retrieval.backends import BACKENDS, make_backend
from retrieval.index import Index
from retrieval.index_folder import CARD, LOCK, files_of, locked
from retrieval.nearest import nearest

MODEL = {"model": "Tiny", "image_shape": [3, 32, 32], "weights": "abc"}
THOROUGH = [("faiss", {"faiss_kind": kind, "probes": 10_000}) for kind in ("flat", "ivf", "hnsw")]
CASES = [(name, {}) for name in BACKENDS.names()] + THOROUGH


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
    try:
        make_backend(*request.param)
    except InputError as error:
        pytest.skip(str(error))
    return request.param


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


def test_adds_and_deletes_and_never_uses_an_id_twice(built):
    everything = np.concatenate([data(60)[0], data(50, seed=1)[0], data(3, seed=2)[0]])
    queries = data(4, seed=3)[0]
    assert built.delete(["/photos/0/59.jpg", "/photos/0/3.jpg"]) == 2
    ids, skipped = built.add(*data(50, seed=1), MODEL)
    assert (ids.tolist(), skipped) == (list(range(60, 110)), 0)
    assert built.delete([109, 60]) == 2 and built.delete("/photos/0/4.jpg") == 1 and built.delete(5) == 1
    assert built.add(*data(3, seed=2))[0].tolist() == [110, 111, 112]
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
    assert built.add(*data(2, seed=1))[0].tolist() == [60, 61]
    assert_finds(built, data(2, seed=1)[0], [60, 61], embeddings[:5], 2)
    on_disk(built.folder)


def test_a_path_is_there_once(built):
    embeddings, paths, labels = data(10, seed=1)
    paths[3] = paths[2]
    paths[7:] = data(60)[1][:3]
    ids, skipped = built.add(embeddings, paths, labels)
    assert (ids.tolist(), skipped) == ([60, 61, 62, 63, 64, 65], 4)
    assert_finds(built, np.concatenate([data(60)[0], embeddings[[0, 1, 2, 4, 5, 6]]]), range(66), embeddings[2:4], 3)
    before = on_disk(built.folder)
    assert built.add(embeddings, paths, labels)[1] == 10 and on_disk(built.folder) == before


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
    queries = torch.from_numpy(data(5, seed=7)[0])
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


def test_odd_paths_survive(exact):
    paths = ["/a b/ü.jpg", "/" + "x" * 300, "", "/\udcff.jpg", "relative.png"]
    exact.add(data(5, seed=1)[0], paths, [7] * 5)
    assert Index.open(exact.folder).rows.paths()[-5:] == paths


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "hnsw"])
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
    options = {"faiss_kind": "ivf", "lists": 3, "probes": 0, "code_bytes": 0, "links": 32}
    assert index.card["options"] == options and index.card["state"]["factory"] == "IVF3,Flat"


@pytest.mark.parametrize("package", ["faiss", "qdrant_client"])
def test_a_missing_package_is_named(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    backend = package.removesuffix("_client")
    with pytest.raises(InputError, match=f"the backend {backend} needs .*: pip install {backend}-"):
        Index.build(tmp_path / "index", *data(3), MODEL, backend)
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
    "embeddings are .*torch.int64; an index takes": (np.zeros((3, 2), int), ["a", "b", "c"], [1, 1, 1]),
    r"embeddings are \(3,\)": (np.zeros(3, np.float32), ["a", "b", "c"], [1, 1, 1]),
    r"embeddings are \(0, 2\)": (np.zeros((0, 2), np.float32), [], []),
    r"embeddings are \(3, 0\)": (np.zeros((3, 0), np.float32), ["a", "b", "c"], [1, 1, 1]),
    "2 of 3 embeddings are NaN or infinite: 'b', 'c'": (
        np.float32([[1, 2], [np.nan, 1], [1, np.inf]]),
        ["a", "b", "c"],
        [1, 1, 1],
    ),
    "3 embeddings, 2 paths": (np.ones((3, 2), np.float32), ["a", "b"], [1, 1, 1]),
    r"labels \(2,\)": (np.ones((3, 2), np.float32), ["a", "b", "c"], [1, 1]),
    r"labels \(3,\) float64": (np.ones((3, 2), np.float32), ["a", "b", "c"], [1.0, 1, 1]),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_arrays_that_do_not_fit(exact, tmp_path, sentence):
    before = (exact.folder / CARD).read_text()
    with pytest.raises(InputError, match=sentence):
        exact.add(*MISTAKES[sentence])
    with pytest.raises(InputError, match=sentence):
        Index.build(tmp_path / "new", *MISTAKES[sentence], MODEL)
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
    with pytest.raises(InputError, match="1 of 2 embeddings are NaN or infinite: query 1"):
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
        ("faiss", {"faiss_kind": "hnws"}, "'hnws' is none of auto, flat, ivf, ivfpq, hnsw. Did you mean 'hnsw'"),
        ("faiss", {"list": 3}, "no option 'list'. Did you mean 'lists'"),
        ("faiss", {"lists": "3"}, "lists is '3'; the backend faiss takes int"),
        ("faiss", {"lists": 61}, "lists is 61, but there are only 60 items"),
        ("faiss", {"probes": -1}, "probes is -1"),
        ("faiss", {"code_bytes": 5}, "code_bytes is 5, which does not divide the width 16"),
        ("faiss", {"links": 1}, "links is 1"),
        ("qdrant", {"qdrant_url": "localhost"}, "'localhost' is no address such as http://localhost:6333"),
        ("qdrant", {"qdrant_url": "http://127.0.0.1:1"}, "Qdrant at http://127.0.0.1:1 does not answer"),
    ],
)
def test_backends_that_cannot_be(tmp_path, backend, options, sentence):
    if backend in BACKENDS.names():
        pytest.importorskip({"faiss": "faiss", "qdrant": "qdrant_client"}.get(backend, "numpy"))
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


@pytest.mark.parametrize("name", ["ids", "labels", "lengths", "paths", "path_ends", "embeddings", "deleted"])
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
        (lambda card: [1], "has the format None; this program reads format 1"),
        (lambda card: damaged(card, format=2), "has the format 2; this program reads format 1"),
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


def test_damaged_files_are_named(exact):
    segment = exact.folder / exact.card["segments"][0]
    labels = np.load(segment / "labels.npy")
    np.save(segment / "labels.npy", labels[:-1])
    with pytest.raises(InputError, match="segment-000001' is damaged"):
        Index.open(exact.folder)
    np.save(segment / "labels.npy", labels)
    whole = (segment / "embeddings.npy").read_bytes()
    (segment / "embeddings.npy").write_bytes(whole[:-5])
    with pytest.raises(InputError, match="embeddings.npy"):
        Index.open(exact.folder)
    shutil.rmtree(segment)
    with pytest.raises(InputError, match="is damaged: there is no"):
        Index.open(exact.folder)
