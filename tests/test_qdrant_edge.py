"""Backend qdrant_edge: its shards, who reads them beside whom, and what of a stranger's folder is not trusted."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_index import MODEL, assert_finds, data, on_disk

from core.errors import InputError
from retrieval.index.backends import _backend, qdrant_edge
from retrieval.index.folder import CARD
from retrieval.index.index import Index

pytest.importorskip("qdrant_edge")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def built(tmp_path):
    return Index.build(tmp_path / "index", *data(60), MODEL, "qdrant_edge")


def contents(folder):
    """{file: hash} of all that lies in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: hashlib.blake2b(file.read_bytes()).digest() for file in files}


def test_a_graph_of_codes_finds_most(tmp_path, monkeypatch):
    """Also among selected items, and after half of them have gone; recall is measured and kept."""
    monkeypatch.setattr(qdrant_edge, "GRAPH_FROM", 100)
    monkeypatch.setattr(_backend, "FEW_SELECTED", 0)
    embeddings, paths, labels = data(3000, 32)
    categories = [f"c{row % 3}" for row in range(3000)]
    index = Index.build(tmp_path / "i", embeddings, paths, labels, MODEL, "qdrant_edge", categories=categories)
    assert index.card["state"]["approximate"] and index.card["recall"]["value"] > 0.95
    queries = data(50, 32, seed=1)[0]
    exact = Index.build(tmp_path / "exact", embeddings, paths, labels, MODEL, categories=categories)

    def recall(**wanted):
        found, right = index.search(queries, 10, **wanted), exact.search(queries, 10, **wanted)
        np.testing.assert_allclose(
            found.scores[found.ids == right.ids], right.scores[found.ids == right.ids], atol=1e-6
        )
        return np.mean([len(np.intersect1d(ours, theirs)) / 10 for ours, theirs in zip(found.ids, right.ids)])

    assert recall() > 0.95 and recall(categories="c1") > 0.9 and recall(labels=[2, 3], categories=["c0", "c2"]) > 0.9
    for each in (index, exact):
        each.delete(list(range(0, 2600, 2)))
    assert recall() > 0.95 and recall(categories="c1") > 0.9


def test_shards_stay_few(built):
    everything = [data(60)[0]]
    for seed in range(1, 13):
        built.add(*data(2, seed=seed))
        everything.append(data(2, seed=seed)[0])
    state = built.card["state"]
    assert len(state["files"]) <= 3 and sum(state["stored"]) == 84 and state["lasts"][-1] == 83
    assert_finds(Index.open(built.folder), np.concatenate(everything), range(84), data(3, seed=50)[0], 9)
    built.delete(list(range(50)))
    built.add(*data(1, seed=90))
    assert sum(built.card["state"]["stored"]) == 35  # made anew, without the deleted ones
    on_disk(built.folder)


def test_who_reads_writes_nothing_and_waits_for_nobody(built):
    """Another process and many threads at once, while a third process changes the index."""
    before = contents(built.folder)
    queries = data(20, seed=1)[0]
    script = "import sys, numpy as np; from retrieval.index.index import Index; i = Index.open(sys.argv[1]);"
    script += "print(i.search(np.ones((1, 16), np.float32), 3).ids.tolist()); sys.stdout.flush(); sys.stdin.read();"
    script += "print(i.search(np.ones((1, 16), np.float32), 3).ids.tolist())"
    words = [sys.executable, "-c", script, built.folder]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        first = json.loads(other.stdout.readline())
        reader = Index.open(built.folder)
        alone = reader.search(queries, 5).ids
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row: reader.search(queries[row : row + 1], 5).ids[0], list(range(20)) * 4))
        assert (np.array(found) == np.tile(alone, (4, 1))).all()
        assert contents(built.folder) == before
        built.add(*data(9, seed=2))
        built.delete(list(range(40)))
        assert json.loads(other.communicate("")[0]) == first
    assert (reader.search(queries, 5).ids == alone).all()


def test_links_of_a_stranger_are_refused(built, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "edge_config.json").write_text("mine")
    shard = built.folder / built.card["state"]["files"][0]
    (shard / "edge_config.json").unlink()
    (shard / "edge_config.json").symlink_to(victim / "edge_config.json")
    with pytest.raises(InputError, match="edge_config.json' is a link"):
        Index.open(built.folder).search(data(1)[0])
    shutil.move(shard, victim / "shard")
    shard.symlink_to(victim / "shard")
    with pytest.raises(InputError, match="is a link"):
        Index.open(built.folder).search(data(1)[0])
    assert (victim / "edge_config.json").read_text() == "mine"


def test_settings_of_a_stranger_do_not_count(built):
    shard = built.folder / built.card["state"]["files"][0]
    (shard / "edge_config.json").write_text('{"wal": "../../elsewhere"')
    assert_finds(Index.open(built.folder), data(60)[0], range(60), data(3, seed=1)[0], 9)
    assert (shard / "edge_config.json").read_text() == '{"wal": "../../elsewhere"'


def damage(shard, kind):
    [segment, *_] = sorted((shard / "segments").iterdir())
    if kind == "settings":
        (segment / "segment.json").write_text("{")
    elif kind == "a segment":
        for segment in (shard / "segments").iterdir():
            shutil.rmtree(segment)
    elif kind == "all segments":
        shutil.rmtree(shard / "segments")
    else:
        for file in segment.rglob("*"):
            if file.is_file() and file.suffix == ".dat":
                file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("kind", ["settings", "a segment", "all segments", "numbers"])
def test_damaged_shards_are_named(built, kind):
    """In one sentence, or searched all the same: never found wrongly, since cosines are of the index's own arrays."""
    damage(built.folder / built.card["state"]["files"][0], kind)
    index = Index.open(built.folder)
    if kind == "numbers":
        try:
            hits = index.search(data(3)[0], 3)
        except InputError as error:
            assert "qdrant_edge-000001" in str(error) or "Qdrant Edge" in str(error)
        else:
            assert (hits.ids[:, 0] < 60).all()
        return
    with pytest.raises(InputError, match="qdrant_edge-000001' is damaged: ") as caught:
        index.search(data(1)[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"files": ["../../elsewhere"]}, "damaged: it names '../../elsewhere'"),
        ({"files": "qdrant_edge-000001"}, "damaged: state.files"),
        ({"files": [7]}, "damaged: state.files"),
        ({"files": []}, "is damaged: shards"),
        ({"lasts": [3, 2]}, "is damaged: shards"),
        ({"stored": ["60"]}, "damaged: state.stored"),
        ({"stored": [61]}, "qdrant_edge-000001' is damaged: it holds 60 items, not 61"),
        ({"files": ["qdrant_edge-000000"]}, "is damaged: there is no '.*qdrant_edge-000000'"),
    ],
)
def test_cards_that_do_not_fit_are_named(built, change, sentence):
    card = json.loads((built.folder / CARD).read_text())
    card["state"] |= change
    (built.folder / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=sentence):
        Index.open(built.folder).search(data(1)[0])


def test_a_full_disk_is_said(built, monkeypatch):
    """Of Qdrant's own writing, too."""

    class Full:
        def __init__(self):
            raise RuntimeError("No space left on device (os error 28)\nmore")

    monkeypatch.setattr(qdrant_edge.QdrantEdgeBackend, "_points", lambda *_: Full())
    before = on_disk(built.folder)
    with pytest.raises(InputError, match="cannot write to index '.*index': No space left on device"):
        built.add(*data(3, seed=1))
    assert on_disk(built.folder) == before and len(Index.open(built.folder)) == 60
    assert not [name for name in os.listdir("/proc/self/fd") if "qdrant_edge-000002" in _target(name)]


def _target(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""
