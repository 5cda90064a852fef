"""search.py find without torch: by items of the index, by embeddings in a file, by the network that the index keeps."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import as_line, read_json, run

from core.errors import InputError
from embeddings.own_network import keep_network
from retrieval.index.folder import NETWORK
from retrieval.index.index import Index
from retrieval.plain import exact_cosines, on_grid, row_lengths
from retrieval.query_gallery import QueryGallery
from retrieval.rows import row_lengths as torch_lengths
from retrieval.scores import Scores

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("tiny")
LINE = ["--use_gpu=False", "--num_workers=0", "--batch_size=8"]
# What another runtime takes of a cosine at the most, as of --runtime (embeddings/fastest.py).
MOST_OFF = 1e-4


@pytest.fixture(scope="module")
def index(tiny, sop_tree, finished_run, tmp_path_factory):
    """An index of the 30 test images that keeps its network. Read only."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("own") / "i.index"
    flags = as_line({"data_dir": sop_tree, "pretrained_model": finished_run, "runtime": "onnx"})
    run("search", ["build", folder, *LINE, *flags])
    return folder


def find(index, *words):
    """What search.py finds, {query: its hits}, in this process, where torch is."""
    file = index.parent / "hits.json"
    run("search", ["find", index, *LINE, *words, "--k=6", f"--output={file}"])
    return {answer["query"]: answer["hits"] for answer in read_json(file)}


def ids_of(hits):
    return {query: [hit["id"] for hit in found] for query, found in hits.items()}


def scores_of(hits):
    return np.array([[hit["score"] for hit in found] for found in hits.values()])


def find_without_torch(index, *words):
    """The same by a process of its own, which says whether it has imported torch."""
    file = index.parent / "alone.json"
    line = ["find", str(index), *LINE, *map(str, words), "--k=6", f"--output={file}"]
    code = f"import sys, search; search.main({line!r}); sys.exit(3 if 'torch' in sys.modules else 0)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr or "torch was imported"
    return {answer["query"]: answer["hits"] for answer in json.loads(file.read_text())}


@pytest.mark.parametrize("kind", ["items", "npy", "npz"])
def test_what_is_embedded_already_is_found_without_torch(index, kind, tmp_path):
    opened = Index.open(index)
    rows = opened.rows
    words = ["--items", "4", rows.paths()[7]]
    if kind == "npy":
        np.save(tmp_path / "q.npy", rows.take(rows.ids[[4, 7]])[0])
        words = ["--embeddings", tmp_path / "q.npy"]
    if kind == "npz":
        paths = np.array(rows.paths(rows.ids[[4, 7]]))
        model = np.array(json.dumps(opened.card["fingerprint"]))
        np.savez(tmp_path / "q.npz", embeddings=rows.take(rows.ids[[4, 7]])[0], paths=paths, model=model)
        words = ["--embeddings", tmp_path / "q.npz"]
    found = find_without_torch(index, *words)
    assert [hits[0]["id"] for hits in found.values()] == [4, 7]
    # The same process has torch, and compares codes first: the answers are equal to the bit.
    assert found == find(index, *words)
    assert ids_of(found).popitem()[1] == opened.search(rows.take(rows.ids[[7]])[0], 6).ids[0].tolist()


def test_an_image_is_embedded_by_the_network_that_the_index_keeps(index, sop_tree):
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    alone = find_without_torch(index, "--input", query)
    by_torch = find(index, "--input", query, "--runtime=torch")
    assert np.abs(scores_of(alone) - scores_of(by_torch)).max() < MOST_OFF
    assert ids_of(find(index, "--input", query)) == ids_of(alone)


def test_a_network_of_another_model_is_not_asked(index, sop_tree, tmp_path, capsys):
    opened = Index.open(index)
    content = (index / NETWORK).read_bytes()
    other = Index.build(
        tmp_path / "o", *np.ones((1, 4, 3), np.float32), ["a", "b", "c", "d"], None, {"model": "made up"}
    )
    keep_network(other, content)
    assert (other.folder / NETWORK).exists()
    # The index goes over to a model that the file does not tell of.
    other.card["fingerprint"] = opened.card["fingerprint"]
    from embeddings.own_network import embed_by_own_network
    from reader import open_inputs

    records = open_inputs([str(sorted(sop_tree.glob("*/1*_0.jpg"))[0])], None)
    assert embed_by_own_network(other, records, 8) is None
    assert embed_by_own_network(opened, records, 8) is not None
    keep_network(other, None)
    assert embed_by_own_network(other, records, 8) is None


MISTAKES = {
    "'99' is not in index": ["--items", "99"],
    "'nowhere.jpg' is not in index": ["--items", "nowhere.jpg"],
    "give one of them": ["--items", "3", "--input", "cat.jpg"],
    "has to end in .npz or .npy": ["--embeddings", "q.txt"],
    "no file 'q.npy'": ["--embeddings", "q.npy"],
    "is one file; 2 are given": ["--embeddings", "a.npy", "b.npy"],
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_mistakes(index, sentence):
    with pytest.raises(InputError, match=sentence):
        run("search", ["find", index, *MISTAKES[sentence]])


@pytest.mark.parametrize("width", [1, 7, 64])
def test_numpy_reckons_what_torch_does(width):
    """To the bit: lengths and cosines are defined, whichever library takes the sums."""
    rng = np.random.default_rng(width)
    table = rng.standard_normal((40, width)).astype(np.float32) * np.float32(10.0) ** rng.integers(-15, 15, (40, 1))
    table[3] = 0
    queries, places = table[:5], rng.integers(0, 40, (5, 9))
    lengths = row_lengths(table)
    np.testing.assert_array_equal(lengths, torch_lengths(torch.from_numpy(table)).numpy())
    scores = Scores(QueryGallery.apart(torch.from_numpy(queries), torch.from_numpy(table)), "cosine")
    pairs = torch.arange(5).repeat_interleave(9), torch.from_numpy(places).flatten()
    ours = exact_cosines(on_grid(queries, lengths[:5]), on_grid(table, lengths), places)
    np.testing.assert_array_equal(ours.ravel(), scores.exact_pairs(*pairs).numpy())
    with pytest.raises(InputError, match="1 of 2 embeddings are NaN or infinite, first in rows .1"):
        row_lengths(np.float32([[1], [np.nan]]))
