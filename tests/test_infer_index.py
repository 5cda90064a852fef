"""infer.py as the door to an index: build, search, add, delete as users run them; mistakes in one sentence each."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import SCRIPTS, as_line, embedding_moves, read_json, run
from tolerances import assert_within, cosine_error, decimal_error, gamma, least_cosine

from embedding import load_embeddings
from engine import options
from errors import InputError
from models import Embedder
from retrieval.backends import BACKENDS, make_backend
from retrieval.index import Index
from retrieval.picture import NEUTRAL, RIGHT, WRONG

ROOT = Path(__file__).parents[1]
CPU = {"use_gpu": False, "num_workers": 0, "batch_size": 8}


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(params=BACKENDS.names())
def backend(request):
    """The name of every backend there is; skipped, with the reason, where its package is missing."""
    try:
        make_backend(request.param, {})
    except InputError as error:
        pytest.skip(str(error))
    return request.param


def infer(*inputs, **flags):
    return run("infer", [*as_line({**CPU, **flags}), *(["--input", *inputs] if inputs else [])])


@pytest.fixture
def index(sop_tree, finished_run, tmp_path):
    """An index of the 30 test images, by the exact backend."""
    infer(data_dir=sop_tree, pretrained_model=finished_run, build_index=tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def sentence(monkeypatch, capsys):
    """Call infer.py with a mistaken line; returns its sentence once status and form are right."""

    def call(*inputs, **flags):
        words = [*as_line({**CPU, **flags}), *(["--input", *map(str, inputs)] if inputs else [])]
        monkeypatch.setattr(sys, "argv", ["infer.py", *words])
        with pytest.raises(SystemExit) as end:
            options.run_script(SCRIPTS["infer"].main)
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("infer.py: ") and said.count("\n") == 1, said
        return said.removeprefix("infer.py: ").rstrip("\n")

    return call


def contents(folder):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(Path(folder).rglob("*"))}


def table(printed):
    """[(rank, score, label, path)] of all lines of hits."""
    rows = re.findall(r"^ +(\d+) +(-?\d\.\d{4}) +(\S+)  (.+)$", printed, re.MULTILINE)
    return [(int(rank), float(score), label, path) for rank, score, label, path in rows]


def test_build_search_add_delete(backend, sop_tree, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sop_tree, "shop")
    printed = infer(data_dir="shop", pretrained_model=finished_run, build_index="index", backend=backend, batch_size=7)
    assert printed.endswith(f"30 images in index, backend {backend}\n") and "Test-0" not in printed
    query = sorted(Path("shop").glob("*/1[1-9]_0.jpg"))[0]
    printed = infer(query, search="index", k=4)
    assert f"--pretrained_model={finished_run} taken from index" in printed
    hits = table(printed)
    assert hits[0][0] == 1 and hits[0][1] == 1 and hits[0][3] == str(query) and len(hits) == 4
    assert [hit[1] for hit in hits] == sorted((hit[1] for hit in hits), reverse=True)
    printed = infer(query.parent, add_to="index")  # 3 of 15 labels of a shape are in the list already
    added, skipped = map(int, re.search(r"(\d+) images added .*; (\d+) skipped", printed).groups())
    assert added + skipped == len(list(query.parent.iterdir())) and f"now holds {30 + added}; " in printed
    Path("shop", "cross_final").rename("moved")
    assert "1 images deleted from index" in infer(query, delete_from="index")
    below = len([path for path in Index.open("index").rows.paths() if "cross_final" in path])
    assert f"{below} images deleted from index" in infer("shop/cross_final", delete_from="index")
    found = table(infer(query, search="index", k=4) if query.exists() else infer("moved", search="index", k=4))
    assert found and not [path for _, _, _, path in found if "cross_final" in path or path == str(query)]


def test_hits_are_those_of_the_embeddings(backend, sop_tree, finished_run, tmp_path):
    files = [tmp_path / "x.npz", tmp_path / "hits.json"]
    infer(
        data_dir=sop_tree, pretrained_model=finished_run, build_index=tmp_path / "i", backend=backend, output=files[0]
    )
    images, embeddings, card = load_embeddings(files[0])
    assert card == Index.open(tmp_path / "i").card["fingerprint"] and len(images) == 30
    printed = infer(data_dir=sop_tree, search=tmp_path / "i", output=files[1], k=30, **{"input": "Ebay_test.txt"})
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    answers = read_json(files[1])
    assert len(answers) == 30 and len(table(printed)) == 900
    for row, (answer, cosines) in enumerate(zip(answers, (unit @ unit.T).numpy())):
        assert answer["query"] == os.path.abspath(images.paths[row]) and answer["label"] == images.labels[row]
        assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 31))
        ids = [hit["id"] for hit in answer["hits"]]
        assert sorted(ids) == list(range(30))
        assert_within([hit["score"] for hit in answer["hits"]], cosines[ids], cosine_error(8))
        assert [hit["label"] for hit in answer["hits"]] == images.labels[ids].tolist()
        assert [hit["path"] for hit in answer["hits"]] == [os.path.abspath(images.paths[i]) for i in ids]


def test_an_index_is_replaced_only_when_asked(sentence, index, sop_tree, finished_run):
    before = contents(index)
    flags = {"data_dir": sop_tree, "pretrained_model": finished_run, "build_index": index}
    assert "already holds an index; add to it, or replace it with --overwrite=True" in sentence(**flags)
    assert contents(index) == before
    folder = sorted(path for path in sop_tree.iterdir() if path.is_dir())[0]
    infer(folder, **flags, overwrite=True)
    assert len(Index.open(index)) == len(list(folder.iterdir())) and set(Index.open(index).rows.labels.tolist()) == {-1}


def test_options_of_a_backend_are_flags(sop_tree, finished_run, tmp_path):
    pytest.importorskip("faiss")
    flags = {"backend": "faiss", "faiss_kind": "ivf", "lists": 2, "probes": 1}
    printed = infer(data_dir=sop_tree, pretrained_model=finished_run, build_index=tmp_path / "i", **flags)
    card = Index.open(tmp_path / "i").card
    assert card["options"] == {"faiss_kind": "ivf", "lists": 2, "probes": 1, "code_bytes": 0, "links": 32}
    assert f"recall@10 against exact search: {card['recall']['value']:.4f} (30 queries)" in printed


def test_a_picture_has_frames_where_labels_are_known(index, sop_tree, tmp_path):
    query = sorted(sop_tree.glob("*/1[1-9]_0.jpg"))[0]
    infer(query, search=index, k=3, output=tmp_path / "neutral.png")
    (tmp_path / "list.txt").write_text(f"1 {query.name.split('_')[0]} 1 {query}\n")
    infer(tmp_path / "list.txt", search=index, k=3, data_dir="/", output=tmp_path / "known.png")
    for name, colours in (("neutral", (NEUTRAL,)), ("known", (RIGHT, WRONG))):
        picture = cv2.imread(str(tmp_path / f"{name}.png"))[..., ::-1].reshape(-1, 3)
        for colour in (NEUTRAL, RIGHT, WRONG):
            assert bool((picture == colour).all(1).any()) == (colour in colours), (name, colour)


def test_both_outputs_of_a_search(index, sop_tree, tmp_path):
    query = str(sorted(sop_tree.glob("*/1*_0.jpg"))[0])
    files = [str(tmp_path / "new" / "hits.png"), str(tmp_path / "new" / "hits.json")]
    printed = run("infer", [*as_line({**CPU, "search": index, "k": 2}), "--input", query, "--output", *files])
    assert printed.endswith(f"written: {', '.join(files)}\n") and all(Path(file).is_file() for file in files)


def test_images_that_have_moved_are_named_when_a_picture_needs_them(sentence, sop_copy, finished_run, tmp_path):
    infer(data_dir=sop_copy, pretrained_model=finished_run, build_index=tmp_path / "i")
    query = sorted(sop_copy.glob("*/1[1-9]_0.jpg"))[0]
    shutil.copy(query, tmp_path / "query.jpg")
    query.rename(tmp_path / "moved.jpg")
    assert table(infer(tmp_path / "query.jpg", search=tmp_path / "i", k=3))[0][3] == str(query)
    said = sentence(tmp_path / "query.jpg", "--output", tmp_path / "h.png", tmp_path / "h.json", search=tmp_path / "i")
    assert f"no image {str(query)!r}: it has moved since it was indexed" in said and "h.png" in said
    assert (tmp_path / "h.json").is_file() and not (tmp_path / "h.png").exists()


def test_the_model_is_the_cards_unless_given(sentence, index, sop_tree, finished_run, tmp_path):
    query, before = sorted(sop_tree.glob("*/1*_0.jpg"))[0], contents(index)
    assert table(infer(query, search=index, pretrained_model=finished_run))
    other = shutil.copytree(finished_run, tmp_path / "other")
    state = torch.load(other / "last.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1
    torch.save(state, other / "last.pt")
    for flags in ({"search": index}, {"add_to": index}):
        said = sentence(query, **flags, pretrained_model=other)
        assert said.endswith("was made by another model; what differs: the weights")
        said = sentence(query, **flags, image_shape="3,48,48")
        assert said.endswith("what differs: image_shape: [3, 32, 32] there, [3, 48, 48] here")
    assert contents(index) == before


@pytest.mark.parametrize("way", [{"precision": "bf16"}, {"precision": "fp32"}, {"runtime": "openvino"}], ids=str)
def test_the_same_weights_embedded_another_way_are_the_same_model(index, finished_run, sop_tree, way):
    if "runtime" in way:
        pytest.importorskip("openvino", reason="requirements-openvino.txt is not installed")
    query = sorted(sop_tree.glob("*/1[1-9]_0.jpg"))[0]
    error = {"bf16": gamma(1, torch.bfloat16)}.get(way.get("precision"), gamma(75 + 49 + 16, torch.float32))
    least = least_cosine(*embedding_moves(finished_run, [query]), error).item()
    hits = table(infer(query, search=index, k=1, **way))
    assert hits[0][1] >= least - decimal_error(4) and "images added" in infer(query, add_to=index, **way)


def test_a_model_that_is_gone_or_changed(sentence, sop_tree, finished_run, tmp_path):
    model = shutil.copytree(finished_run, tmp_path / "model")
    infer(data_dir=sop_tree, pretrained_model=model, build_index=tmp_path / "i")
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    state = torch.load(model / "last.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"] += 1
    torch.save(state, model / "last.pt")
    assert "what differs: the weights" in sentence(query, search=tmp_path / "i")
    model.rename(tmp_path / "elsewhere")
    said = sentence(query, search=tmp_path / "i")
    assert f"its model {str(model)!r} is not there any more; give --pretrained_model" in said
    index = Index.open(tmp_path / "i")
    card = {**index.card, "origin": None}
    (tmp_path / "i" / "index.json").write_text(json.dumps(card))
    assert "its card names no model; give --pretrained_model" in sentence(query, search=tmp_path / "i")


def test_tables_of_many_queries_are_left_out(index, sop_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("indexing.SHOWN", 2)
    monkeypatch.setattr("indexing.DRAWN", 3)
    flags = {"data_dir": sop_tree, "search": index, "input": "Ebay_test.txt"}
    assert "the picture shows 3 of 30 queries" in infer(**flags, output=tmp_path / "hits.png")
    printed = infer(**flags, k=99, output=tmp_path / "hits.json")
    assert len(table(printed)) == 60 and "tables of 28 more queries are left out" in printed
    assert printed.count("holds 30 images, and all of them are shown") == 1
    assert [len(answer["hits"]) for answer in read_json(tmp_path / "hits.json")] == [30] * 30


def test_many_features_are_not_printed(sop_tree, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("infer.PRINTED", 5)
    files = [str(tmp_path / "x.npz"), str(tmp_path / "x.json")]
    line = as_line({**CPU, "data_dir": sop_tree, "pretrained_model": finished_run})
    printed = run("infer", [*line, "--scores", "--output", *files])
    assert len(re.findall("Test-.*-feature", printed)) == len(re.findall("Test-.*-scores", printed)) == 5
    assert printed.endswith(f"30 images, 8 numbers each, written: {', '.join(files)}\n")
    images, embeddings, card = load_embeddings(files[0])
    assert card["model"] == "Tiny" and images.categories is not None
    np.testing.assert_array_equal(list(read_json(tmp_path / "x.json").values()), embeddings)


MISTAKES = [
    ({"build_index": "new", "search": "index"}, "--build_index and --search exclude each other; give one"),
    ({"add_to": "index", "delete_from": "index"}, "--add_to and --delete_from exclude each other"),
    ({"search": "index", "scores": True}, "--search and --scores exclude each other"),
    ({"search": "index"}, "--search needs --input"),
    ({"add_to": "index"}, "--add_to needs --input"),
    ({"delete_from": "index"}, "--delete_from needs --input"),
    ({"build_index": "new", "pretrained_model": None}, "--build_index needs --pretrained_model"),
    ({"build_index": "new", "k": 3}, "--k goes with --search only"),
    ({"k": 3}, "--k goes with --search only"),
    ({"search_memory_mb": 3}, "--search_memory_mb goes with --search only"),
    ({"overwrite": True}, "--overwrite goes with --build_index only"),
    ({"add_to": "index", "backend": "exact", "input": "q"}, "--backend goes with --build_index only"),
    ({"search": "index", "input": "q", "k": 0}, "--k", "'0' is not an integer above 0"),
    ({"search": "index", "input": "q", "search_memory_mb": 0}, "'0' is not an integer above 0"),
    ({"search": "nowhere", "input": "q"}, "nowhere' is no index: there is no ", "index.json"),
    ({"add_to": "nowhere", "input": "q"}, "nowhere' is no index"),
    ({"delete_from": "nowhere", "input": "q"}, "nowhere' is no index"),
    ({"search": "index", "input": "none.jpg"}, "no file or folder 'none.jpg'"),
    ({"search": "index", "input": "q", "output": "x.npz"}, "x.npz': it has to end in .json or .png"),
    ({"build_index": "new", "output": "x.png"}, "it has to end in .npz or .json"),
    ({"delete_from": "index", "input": "q", "output": "x.json"}, "--output does not go with --delete_from"),
    ({"delete_from": "index", "input": "none.jpg"}, "none.jpg' is not in index", "nothing is deleted"),
    ({"build_index": "new", "backend": "fais"}, "unknown backend 'fais'", "Did you mean 'faiss'?"),
    ({"build_index": "new", "lists": 3}, "unknown flag '--lists=3'. It is an option of faiss."),
    ({"build_index": "new", "backend": "faiss", "faiss_kind": "ivfq"}, "'ivfq' is none of", "Did you mean 'ivf"),
    ({"build_index": "new", "backend": "faiss", "lists": 31}, "lists is 31, but there are only 30 items"),
    ({"build_index": "new", "backend": "faiss", "lists": "few"}, "--lists", "few"),
    ({"build_index": "file"}, "it is a file"),
    ({"build_index": "file/new"}, "cannot write", "Not a directory"),
    ({"build_index": "photos"}, "holds 'q.jpg'; an index takes a folder of its own"),
    ({"serach": "index"}, "unknown flag '--serach=index'", "Did you mean '--search'?"),
]


@pytest.mark.parametrize("flags, words", [(flags, words) for flags, *words in MISTAKES])
def test_mistaken_flag(sentence, index, sop_tree, finished_run, tmp_path, monkeypatch, flags, words):
    if flags.get("backend") == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    query = shutil.copy(sorted(sop_tree.glob("*/1*_0.jpg"))[0], tmp_path / "photos" / "q.jpg")
    flags = {"data_dir": sop_tree, "pretrained_model": finished_run, **flags}
    if flags.get("input") == "q":
        flags["input"] = query
    before = contents(tmp_path)
    said = sentence(**flags)
    assert all(word in said for word in words), said
    assert contents(tmp_path) == before


def test_an_empty_index_says_so(sentence, index, sop_tree):
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    assert "30 images deleted" in infer(sop_tree, delete_from=index)
    assert sentence(query, search=index) == f"index {str(index)!r} is empty: there is nothing to find"


def test_broken_embeddings_are_named_by_path(sentence, sop_tree, finished_run, tmp_path):
    broken = shutil.copytree(finished_run, tmp_path / "broken")
    state = torch.load(broken / "last.pt", weights_only=True)
    state["model"]["backbone.bn1.bias"][0] = float("nan")
    torch.save(state, broken / "last.pt")
    said = sentence(data_dir=sop_tree, pretrained_model=broken, build_index=tmp_path / "i")
    assert "30 of 30 embeddings are NaN or infinite" in said and "_final" in said
    assert not (tmp_path / "i").exists()


def test_in_a_process(sop_tree, tmp_path):
    """ResNet18 as a user runs it, from another folder: nothing on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    model = ["--model=ResNet18", "--image_shape=3,32,32", "--num_workers=0", "--use_gpu=False"]

    def call(*words):
        line = [sys.executable, ROOT / "infer.py", *map(str, words)]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    torch.save(Embedder("ResNet18").state_dict(), tmp_path / "weights.pt")
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    built = call(*model, "--pretrained_model=weights.pt", "--build_index=index", "--input", query)
    assert (built.returncode, built.stderr) == (0, "") and built.stdout.endswith("1 images in index, backend exact\n")
    found = call("--num_workers=0", "--search=index", "--input", query)
    assert (found.returncode, found.stderr) == (0, "") and "1   1.0000        -  " in found.stdout
