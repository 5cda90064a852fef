"""search.py: build, find, add, delete as users run them; mistakes in one sentence each."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import PROGRAMS, as_line, embedding_moves, read_json, run
from tolerances import assert_within, cosine_error, decimal_error, gamma, least_cosine

from config.script import run_script
from core.errors import InputError
from core.text import plural
from embeddings.files import load_table
from models import Embedder
from report.neighbours import NEUTRAL, RIGHT, WRONG
from retrieval.index.backends import BACKENDS, make_backend
from retrieval.index.index import Index
from retrieval.index.items import item_name

ROOT = Path(__file__).parents[1]
CPU = {"use_gpu": False, "num_workers": 0, "batch_size": 8}


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(params=BACKENDS.names())
def backend(request):
    """The name of every backend there is; skipped, with the reason, where its package is missing."""
    try:
        make_backend(request.param, {})[0].refuse_new()
    except InputError as error:
        pytest.skip(str(error))
    return request.param


def line_of(command, folder, *inputs, **flags):
    """A command line, on the CPU where it embeds anything."""
    if command != "delete":
        flags = {**CPU, **flags}
    words = [command, folder, *as_line(flags)]
    if inputs:
        words += ["--input", *inputs]
    return [str(word) for word in words]


def search(command, folder, *inputs, **flags):
    """Call search.py; returns what it printed."""
    return run("search", line_of(command, folder, *inputs, **flags))


@pytest.fixture
def index(sop_tree, finished_run, tmp_path):
    """An index of the 30 test images, by the exact backend."""
    search("build", tmp_path / "index", data_dir=sop_tree, pretrained_model=finished_run)
    return tmp_path / "index"


@pytest.fixture
def sentence(monkeypatch, capsys):
    """Call search.py with a mistaken line; returns its sentence once status and form are right."""

    def call(*words, **flags):
        monkeypatch.setattr(sys, "argv", ["search.py", *line_of(*words, **flags)])
        with pytest.raises(SystemExit) as end:
            run_script(PROGRAMS["search"].main)
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("search.py: ") and said.count("\n") == 1, said
        return said.removeprefix("search.py: ").rstrip("\n")

    return call


def contents(folder):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(Path(folder).rglob("*"))}


def table(printed):
    """[(rank, score, label, path)] of all lines of hits."""
    rows = re.findall(r"^ +(\d+) +(-?\d\.\d{4}) +(\S.*?)  (.+)$", printed, re.MULTILINE)
    return [(int(rank), float(score), label, path) for rank, score, label, path in rows]


def test_build_search_add_delete(backend, sop_tree, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sop_tree, "shop")
    printed = search("build", "index", data_dir="shop", pretrained_model=finished_run, backend=backend, batch_size=7)
    assert f"\n30 images in index, backend {backend}\n" in printed and "Test-0" not in printed
    query = sorted(Path("shop").glob("*/1[1-9]_0.jpg"))[0]
    printed = search("find", "index", query, k=4)
    assert f"--pretrained_model={finished_run} taken from index" in printed
    hits = table(printed)
    assert hits[0][0] == 1 and hits[0][1] == 1 and hits[0][3] == str(query) and len(hits) == 4
    assert [hit[1] for hit in hits] == sorted((hit[1] for hit in hits), reverse=True)
    printed = search("add", "index", query.parent)  # 3 of 15 labels of a shape are in the list already
    added, skipped = map(int, re.search(r"(\d+) images added .*; (\d+) skipped", printed).groups())
    assert added + skipped == len(list(query.parent.iterdir())) and f"now holds {30 + added}; " in printed
    Path("shop", "cross_final").rename("moved")
    assert "1 image deleted from index" in search("delete", "index", query)
    below = len([path for path in Index.open("index").rows.paths() if "cross_final" in path])
    assert f"{below} images deleted from index" in search("delete", "index", "shop/cross_final")
    found = table(search("find", "index", query, k=4) if query.exists() else search("find", "index", "moved", k=4))
    assert found and not [path for _, _, _, path in found if "cross_final" in path or path == str(query)]


def test_hits_are_those_of_the_embeddings(backend, sop_tree, finished_run, tmp_path):
    files = [tmp_path / "x.npz", tmp_path / "hits.json"]
    search("build", tmp_path / "i", data_dir=sop_tree, pretrained_model=finished_run, backend=backend, output=files[0])
    loaded = load_table(files[0])
    images = loaded.records
    embeddings = loaded.matrix
    card = loaded.fingerprint
    assert card == Index.open(tmp_path / "i").card["fingerprint"] and len(images) == 30
    printed = search("find", tmp_path / "i", data_dir=sop_tree, output=files[1], k=30, **{"input": "Ebay_test.txt"})
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
    flags = {"data_dir": sop_tree, "pretrained_model": finished_run}
    said = sentence("build", index, **flags)
    assert "already holds an index; add to it, or replace it with --overwrite=True" in said
    assert contents(index) == before
    folder = sorted(path for path in sop_tree.iterdir() if path.is_dir())[0]
    search("build", index, folder, **flags, overwrite=True)
    assert len(Index.open(index)) == len(list(folder.iterdir())) and set(Index.open(index).rows.labels()) == {None}


def test_options_of_a_backend_are_flags(sop_tree, finished_run, tmp_path):
    pytest.importorskip("faiss")
    flags = {"backend": "faiss", "faiss_kind": "ivf", "lists": 2, "probes": 1}
    printed = search("build", tmp_path / "i", data_dir=sop_tree, pretrained_model=finished_run, **flags)
    card = Index.open(tmp_path / "i").card
    assert card["options"] == {"faiss_kind": "ivf", "lists": 2, "probes": 1, "code_bytes": 0, "links": 0}
    assert f"recall@10 against exact search: {card['recall']['value']:.4f} (30 queries)" in printed


def test_a_picture_has_frames_where_labels_are_known(index, sop_tree, tmp_path):
    query = sorted(sop_tree.glob("*/1[1-9]_0.jpg"))[0]
    search("find", index, query, k=3, output=tmp_path / "neutral.png")
    (tmp_path / "list.txt").write_text(f"1 {query.name.split('_')[0]} 1 {query}\n")
    search("find", index, tmp_path / "list.txt", k=3, data_dir="/", output=tmp_path / "known.png")
    for name, colours in (("neutral", (NEUTRAL,)), ("known", (RIGHT, WRONG))):
        picture = cv2.imread(str(tmp_path / f"{name}.png"))[..., ::-1].reshape(-1, 3)
        for colour in (NEUTRAL, RIGHT, WRONG):
            assert bool((picture == colour).all(1).any()) == (colour in colours), (name, colour)


def test_both_outputs_of_a_search(index, sop_tree, tmp_path):
    query = str(sorted(sop_tree.glob("*/1*_0.jpg"))[0])
    files = [str(tmp_path / "new" / "hits.png"), str(tmp_path / "new" / "hits.json")]
    printed = run("search", [*line_of("find", index, query, k=2), "--output", *files])
    assert printed.endswith(f"written: {', '.join(files)}\n") and all(Path(file).is_file() for file in files)


def test_images_that_have_moved_are_named_when_a_picture_needs_them(sentence, sop_copy, finished_run, tmp_path):
    search("build", tmp_path / "i", data_dir=sop_copy, pretrained_model=finished_run)
    query = sorted(sop_copy.glob("*/1[1-9]_0.jpg"))[0]
    shutil.copy(query, tmp_path / "query.jpg")
    query.rename(tmp_path / "moved.jpg")
    assert table(search("find", tmp_path / "i", tmp_path / "query.jpg", k=3))[0][3] == str(query)
    said = sentence("find", tmp_path / "i", tmp_path / "query.jpg", "--output", tmp_path / "h.png", tmp_path / "h.json")
    assert f"no image {str(query)!r}: it has moved since it was indexed" in said and "h.png" in said
    assert (tmp_path / "h.json").is_file() and not (tmp_path / "h.png").exists()


def test_the_model_is_the_cards_unless_given(sentence, index, sop_tree, finished_run, tmp_path):
    query, before = sorted(sop_tree.glob("*/1*_0.jpg"))[0], contents(index)
    assert table(search("find", index, query, pretrained_model=finished_run))
    other = shutil.copytree(finished_run, tmp_path / "other")
    state = torch.load(other / "last.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1
    torch.save(state, other / "last.pt")
    for command in ("find", "add"):
        said = sentence(command, index, query, pretrained_model=other)
        assert said.endswith("was made by another model; what differs: the weights")
        said = sentence(command, index, query, image_shape="3,48,48")
        assert said.endswith("what differs: image_shape: [3, 32, 32] there, [3, 48, 48] here")
    assert contents(index) == before


@pytest.mark.parametrize("way", [{"precision": "bf16"}, {"precision": "fp32"}, {"runtime": "openvino"}], ids=str)
def test_the_same_weights_embedded_another_way_are_the_same_model(index, finished_run, sop_tree, way):
    if "runtime" in way:
        pytest.importorskip("openvino", reason="requirements/openvino.txt is not installed")
    query = sorted(sop_tree.glob("*/1[1-9]_0.jpg"))[0]
    error = {"bf16": gamma(1, torch.bfloat16)}.get(way.get("precision"), gamma(75 + 49 + 16, torch.float32))
    least = least_cosine(*embedding_moves(finished_run, [query]), error).item()
    hits = table(search("find", index, query, k=1, **way))
    assert hits[0][1] >= least - decimal_error(4) and "images added" in search("add", index, query, **way)


def test_a_model_that_is_gone_or_changed(sentence, sop_tree, finished_run, tmp_path):
    model = shutil.copytree(finished_run, tmp_path / "model")
    search("build", tmp_path / "i", data_dir=sop_tree, pretrained_model=model)
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    state = torch.load(model / "last.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"] += 1
    torch.save(state, model / "last.pt")
    assert "what differs: the weights" in sentence("find", tmp_path / "i", query)
    model.rename(tmp_path / "elsewhere")
    said = sentence("find", tmp_path / "i", query)
    assert f"its model {str(model)!r} is not there any more; give --pretrained_model" in said
    index = Index.open(tmp_path / "i")
    card = {**index.card, "origin": None}
    (tmp_path / "i" / "index.json").write_text(json.dumps(card))
    assert "its card names no model; give --pretrained_model" in sentence("find", tmp_path / "i", query)


RED, BLUE = (220, 30, 40), (30, 40, 220)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A picture with a red and a blue half, each a row of boxes.csv beside it; the folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    picture = np.full((64, 128, 3), RED, np.uint8)
    picture[:, 64:] = BLUE
    cv2.imwrite("shelf.png", picture[..., ::-1])
    cv2.imwrite("blue.png", np.ascontiguousarray(picture[:, 70:, ::-1]))
    head = "label,path,split,x_1,y_1,x_2,y_2"
    Path("boxes.csv").write_text(f"{head}\nred,shelf.png,validation,0,0,64,64\n-1,shelf.png,validation,64,0,128,64\n")
    return tmp_path


def test_boxes_of_one_picture_are_items(backend, shelf, finished_run):
    flags = {"pretrained_model": finished_run, "data_dir": "."}
    printed = search("build", "index", "boxes.csv", **flags, backend=backend)
    assert f"\n2 images in index, backend {backend}\n" in printed
    printed = run("search", [*line_of("find", "index", "blue.png"), "--output", "h.json", "h.png"])
    assert [(label, path) for _, _, label, path in table(printed)] == [
        ("-1", "shelf.png#64,0,128,64"),
        ("red", "shelf.png#0,0,64,64"),
    ]
    (answer,) = read_json(Path("h.json"))
    assert (answer["query"], answer["box"], answer["label"]) == (str(shelf / "blue.png"), None, None)
    assert [(hit["path"], hit["box"], hit["label"]) for hit in answer["hits"]] == [
        (str(shelf / "shelf.png"), [64, 0, 128, 64], "-1"),
        (str(shelf / "shelf.png"), [0, 0, 64, 64], "red"),
    ]
    picture = cv2.imread("h.png")[..., ::-1]
    reds, blues = ((np.abs(picture.astype(int) - colour).max(2) <= 3).sum(0) > 0 for colour in (RED, BLUE))
    # Each tile has one colour: its own box was cut out, first the blue one of the query and the first hit.
    assert not (reds & blues).any() and np.flatnonzero(blues).max() < np.flatnonzero(reds).min()
    printed = search("add", "index", "boxes.csv", data_dir=".")
    assert "\n0 images added to index, which now holds 2; 2 skipped, which were there already\n" in printed
    printed = search("find", "index", "boxes.csv", data_dir=".", k=1)
    assert re.findall(r"^shelf.png#.*$", printed, re.MULTILINE) == ["shelf.png#0,0,64,64", "shelf.png#64,0,128,64"]


@pytest.mark.parametrize(
    "inputs, left",
    [
        (["shelf.png"], ["blue.png"]),
        (["shelf.png#0,0,64,64"], ["blue.png", "shelf.png#64,0,128,64"]),
        (["shelf.png#0,0,64.0,64", "blue.png"], ["shelf.png#64,0,128,64"]),
        (["boxes.csv"], ["blue.png"]),
        (["half.csv"], ["blue.png", "shelf.png#0,0,64,64"]),
        (["whole.txt"], ["shelf.png#0,0,64,64", "shelf.png#64,0,128,64"]),
        (["."], []),
    ],
    ids=str,
)
def test_what_is_deleted(shelf, finished_run, inputs, left):
    """The pictures of a list need not be there any more."""
    search("build", "index", "boxes.csv", pretrained_model=finished_run, data_dir=".")
    search("add", "index", "blue.png")
    head, _, blue = Path("boxes.csv").read_text().splitlines()
    Path("half.csv").write_text(f"{head}\n{blue}\n")
    Path("whole.txt").write_text("1 1 1 blue.png\n")
    Path("shelf.png").rename("moved.png")
    printed = search("delete", "index", *inputs, data_dir=".")
    assert (
        printed == f"{3 - len(left)} {plural(3 - len(left), 'image')} deleted from index, which now holds {len(left)}\n"
    )
    rows = Index.open("index").rows
    names = [item_name(Path(path).name, box) for path, box in zip(rows.paths(), rows.boxes())]
    assert sorted(names) == left


@pytest.mark.parametrize(
    "inputs, words",
    [
        (["shelf.png#0,0,64,65"], "shelf.png#0,0,64,65' is not in index 'index' (1 of 1 are not); nothing is deleted"),
        (["shelf.png", "other.png", "x"], "other.png' is not in index 'index' (2 of 3 are not); nothing is deleted"),
        (["more.csv"], "shelf.png#0,0,9,9' is not in index 'index' (1 of 3 are not); nothing is deleted"),
        (["whole.txt"], "/shelf.png' is not in index 'index' (1 of 1 are not)"),
        (["gone.csv"], "no list 'gone.csv', neither in '.' nor from here"),
        (["odd.csv"], "odd.csv:2: box ['a', '0', '1', '1'] is not four numbers"),
        (["empty"], "empty' is not in index"),
    ],
    ids=str,
)
def test_what_cannot_be_deleted_is_named_and_nothing_is_deleted(sentence, shelf, finished_run, inputs, words):
    search("build", "index", "boxes.csv", pretrained_model=finished_run, data_dir=".")
    rows, before = Path("boxes.csv").read_text(), contents("index")
    Path("more.csv").write_text(f"{rows}x,shelf.png,train,0,0,9,9\n")
    Path("odd.csv").write_text("label,path,split,x_1,y_1,x_2,y_2\nx,shelf.png,train,a,0,1,1\n")
    Path("whole.txt").write_text("1 1 1 shelf.png\n")  # the whole picture, of which there are boxes only
    Path("empty").mkdir()
    assert words in sentence("delete", "index", *inputs, data_dir=".")
    assert contents("index") == before


def test_a_picture_that_is_no_list_though_it_ends_like_one(shelf, finished_run):
    Path("photos").mkdir()
    Path("blue.png").rename("photos/scan.txt")  # found in its folder by its first bytes
    search("build", "index", "photos", "shelf.png", pretrained_model=finished_run)
    assert search("delete", "index", "photos/scan.txt").startswith("1 image deleted")
    assert Index.open("index").rows.paths() == [str(shelf / "shelf.png")]


def test_a_picture_replaced_under_its_name(shelf, finished_run):
    search("build", "index", "boxes.csv", pretrained_model=finished_run, data_dir=".")
    search("add", "index", "blue.png")
    cv2.imwrite("shelf.png", np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8))
    Path("all").mkdir()
    shutil.copy("blue.png", "all/new.png")
    text = Path("boxes.csv").read_text().replace("red", "noise")
    Path("boxes.csv").write_text(f"{text}x,all/new.png,validation,,,,\nx,blue.png,validation,,,,\n")
    printed = search("add", "index", "boxes.csv", data_dir=".")
    assert printed.splitlines()[-2:] == [
        "1 image added to index, which now holds 4; 2 replaced, whose picture has changed; 1 skipped, which was "
        "there already",
        "note: 1 of those skipped has another label in the index, which stays; delete it and add it again to change it",
    ]
    hits = table(search("find", "index", "boxes.csv", data_dir=".", k=1))
    assert [score for _, score, _, _ in hits] == [1] * 4 and [hit[2] for hit in hits[:2]] == ["noise", "-1"]


def named(folder, finished_run):
    """The index of a list whose labels have names: shelf.csv with the labels 1318 (twice), 5, 6 and 7."""
    for number, colour in enumerate((RED, RED, BLUE, (20, 160, 20), (200, 200, 20))):
        picture = np.full((40, 40, 3), colour, np.uint8)
        picture[: 8 * number] = 255
        cv2.imwrite(f"{number}.png", picture[..., ::-1])
    labels = [1318, 1318, 5, 6, 7]
    rows = [f"{label},{number}.png,validation" for number, label in enumerate(labels)]
    Path("clocks.csv").write_text("\n".join(["label,path,split", *rows]))
    names = 'kind,id,name\nlabel,1318,nine o’clock\nlabel,5,"a\nb"\nlabel,6,same\nlabel,7,same\nlabel,8,unused\n'
    Path("clocks.names.csv").write_text(names)
    search("build", "index", "clocks.csv", pretrained_model=finished_run, data_dir=".")


def test_names_of_labels_are_shown(tmp_path, monkeypatch, finished_run):
    monkeypatch.chdir(tmp_path)
    named(tmp_path, finished_run)
    assert Index.open("index").names == {"1318": "nine o’clock", "5": "a\nb", "6": "same", "7": "same"}
    drawn = []
    monkeypatch.setattr("report.hits.neighbour_sheet", lambda rows, path, captions, labels: drawn.extend(labels))
    printed = run("search", [*line_of("find", "index", "0.png"), "--output", "h.json", "h.png"])
    # In a table two labels of one name can be told apart, and a name keeps to its line.
    called = dict.fromkeys(["0.png", "1.png"], "nine o’clock")
    called |= {"2.png": "a\\nb", "3.png": "same (6)", "4.png": "same (7)"}
    hits = table(printed)
    assert {path: label for _, _, label, path in hits} == called and hits[0][3] == "0.png"
    assert drawn == [("-", [label for _, _, label, _ in hits])]
    (answer,) = read_json(Path("h.json"))
    assert answer["label"] is None and "name" not in answer
    assert [hit["label"] for hit in answer["hits"][:2]] == [1318, 1318]
    assert [hit["name"] for hit in answer["hits"][:2]] == ["nine o’clock"] * 2
    # A query with a label has its name, which may be its own list's.
    Path("query.csv").write_text("label,path,split\n8,0.png,validation\n9,1.png,validation\n")
    Path("query.names.csv").write_text("kind,id,name\nlabel,8,eight\n")
    search("find", "index", "query.csv", data_dir=".", k=5, output="h.json")
    first, second = read_json(Path("h.json"))
    assert (first["label"], first["name"]) == (8, "eight") and second["label"] == 9 and "name" not in second
    # Where a label is called one thing by the query's list and another by the index, each has its own say.
    Path("query.csv").write_text("label,path,split\n1318,0.png,validation\n")
    Path("query.names.csv").write_text("kind,id,name\nlabel,1318,XIII\nlabel,7,seven\n")
    search("find", "index", "query.csv", data_dir=".", k=5, output="h.json")
    (answer,) = read_json(Path("h.json"))
    assert answer["name"] == "XIII"
    expected = {1318: "nine o’clock", 5: "a\nb", 6: "same", 7: "same"}
    assert {hit["label"]: hit["name"] for hit in answer["hits"]} == expected


def test_another_name_of_a_label_is_told(tmp_path, monkeypatch, finished_run):
    monkeypatch.chdir(tmp_path)
    named(tmp_path, finished_run)
    Path("clocks.names.csv").write_text("kind,id,name\nlabel,1318,nine\nlabel,6,six\n")
    printed = search("add", "index", "clocks.csv", data_dir=".")
    assert "note: the label 6 is called 'six' now, no longer 'same', and 1 more label has another name" in printed
    names = {"1318": "nine", "5": "a\nb", "6": "six", "7": "same"}
    assert Index.open("index").names == names
    search("delete", "index", "0.png")
    search("add", "index", "3.png")
    assert Index.open("index").names == names


def test_a_label_without_any_ascii_is_drawn_as_itself(tmp_path, monkeypatch, finished_run):
    monkeypatch.chdir(tmp_path)
    named(tmp_path, finished_run)
    Path("clocks.names.csv").write_text("kind,id,name\nlabel,1318,九時\nlabel,6,sechs Uhr fünf\n")
    search("add", "index", "clocks.csv", data_dir=".")
    drawn = []
    monkeypatch.setattr("report.hits.neighbour_sheet", lambda rows, path, captions, labels: drawn.extend(labels))
    assert table(search("find", "index", "clocks.csv", data_dir=".", k=1, output="h.png"))[0][2] == "九時"
    assert [own for own, _ in drawn] == ["1318", "1318", "a\\nb", "sechs Uhr fünf", "same"]


@pytest.mark.parametrize("words, kinds", [(["-1", "7"], int), (["-1", "seven"], str)])
def test_labels_of_lists_are_labels_of_the_index(shelf, finished_run, words, kinds):
    """-1 is a label like any other; integers are found by a list with names, in which they are strings."""
    Path("two.csv").write_text(f"label,path,split\n{words[0]},shelf.png,train\n{words[1]},blue.png,train\n")
    search("build", "index", "two.csv", pretrained_model=finished_run, data_dir=".")
    assert Index.open("index").rows.labels().tolist() == [kinds(word) for word in words]
    drawn = []
    Path("query.csv").write_text("label,path,split\n-1,shelf.png,train\nx,blue.png,train\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("report.hits.neighbour_sheet", lambda rows, path, captions, labels: drawn.extend(rows))
        run("search", [*line_of("find", "index", "query.csv", data_dir=".", k=2), "--output", "h.json", "h.png"])
    own, other = read_json(Path("h.json"))
    assert (own["label"], other["label"]) == ("-1", "x")
    found = {hit["path"]: hit["label"] for hit in own["hits"]}
    assert [found[str(shelf / f"{name}.png")] for name in ("shelf", "blue")] == [kinds(word) for word in words]
    assert [is_right for _, hits in drawn for _, is_right, _ in hits] == [True, False, False, False]


# One search.py after the other, in one process, since starting takes longest.
LINES = """
import json, sys
import search
from config.script import run_script

for words in json.loads(sys.argv[1]):
    sys.argv = ["search.py", *words]
    run_script(search.main)
"""


@pytest.mark.parametrize("encoding", [pytest.param("utf-8:strict", marks=pytest.mark.slow), "ascii:strict"])
def test_names_that_are_no_utf_8_go_through_everything(shelf, encoding):
    """As a user in a strict locale has it, or at an ASCII terminal."""
    odd = os.fsdecode(b"caf\xe9")
    picture = f"{odd}/{odd}.png"
    Path(odd).mkdir()
    shutil.copy("shelf.png", picture)
    torch.save(Embedder("ResNet18").state_dict(), "weights.pt")
    model = ["--model=ResNet18", "--image_shape=3,32,32", "--pretrained_model=weights.pt"]
    cpu = ["--num_workers=0", "--use_gpu=False"]
    lines = [
        ["build", "index", *model, *cpu, "--input", odd],
        ["find", "index", *cpu, "--input", picture, "--output", "h.json", "h.png"],
        ["add", "index", *cpu, "--input", odd],
        ["delete", "index", "--input", picture],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", LINES, json.dumps(lines)]
    done = subprocess.run(words, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode()
    assert table(printed) == [(1, 1.0, "-", "caf\\udce9/caf\\udce9.png")]
    assert "1 image in index" in printed and "written: h.json, h.png" in printed
    assert "0 images added to index, which now holds 1; 1 skipped" in printed
    assert printed.endswith("1 image deleted from index, which now holds 0\n")
    (answer,) = read_json(Path("h.json"))
    assert answer["query"] == answer["hits"][0]["path"] == str(shelf / picture) and cv2.imread("h.png") is not None


def test_files_are_written_before_tables(index, sop_tree, tmp_path, monkeypatch):
    """So that they are there whatever the terminal does to the tables."""

    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr("report.hits.print_tables", fail)
    query = str(sorted(sop_tree.glob("*/1*_0.jpg"))[0])
    files = [str(tmp_path / "hits.png"), str(tmp_path / "hits.json")]
    with pytest.raises(BrokenPipeError):
        run("search", [*line_of("find", index, query, k=2), "--output", *files])
    assert all(Path(file).is_file() for file in files)


def test_hits_are_there_where_their_picture_cannot_be_drawn(index, sop_copy, tmp_path, capsys):
    query = sorted(sop_copy.glob("*/1[1-9]_0.jpg"))[0]
    files = [tmp_path / "hits.png", tmp_path / "hits.json"]
    files[0].mkdir()
    with pytest.raises(InputError, match="cannot write .*hits.png"):
        PROGRAMS["search"].main([*line_of("find", index, query, k=3), "--output", *map(str, files)])
    printed = capsys.readouterr().out
    assert len(read_json(files[1])[0]["hits"]) == len(table(printed)) == 3
    assert printed.endswith(f"written: {files[1]}\n")


def test_what_recall_is_true_of_is_said(sop_tree, finished_run, tmp_path):
    """Beside each figure: when it was measured, and what has changed since."""
    pytest.importorskip("faiss")
    folder = tmp_path / "an index"
    flags = {"backend": "faiss", "faiss_kind": "ivf", "lists": 3, "probes": 1}
    printed = search("build", folder, data_dir=sop_tree, pretrained_model=finished_run, **flags)
    first = Index.open(folder).card["recall"]
    line = f"recall@10 against exact search: {first['value']:.4f} (30 queries)"
    assert printed.endswith(f"{line}\n")
    images = Index.open(folder).rows.paths()
    assert f"{line}\n" in search("find", folder, images[0], k=1)
    printed = search("delete", folder, images[0])
    assert printed.endswith(f"{line}, measured when it held 30 items; 1 change since\n")
    assert f"{line}, measured when it held 30 items; 1 change since\n" in search("find", folder, images[1], k=1)
    printed = search("delete", folder, images[1])  # 2 of 30 are more than a twentieth
    assert re.search(r"recall@10 against exact search: \d\.\d{4} \(28 queries\)\n", printed)
    assert "recall@" not in search("build", tmp_path / "exact", data_dir=sop_tree, pretrained_model=finished_run)
    card = json.loads((folder / "index.json").read_text())
    card |= {"format": 1, "recall": {name: first[name] for name in ("at", "value", "queries", "items")}}
    (folder / "index.json").write_text(json.dumps(card))
    unknown = f"{line}, measured when it held 30 items; how many changes since is not known\n"
    assert unknown in search("find", folder, images[2], k=1)


@pytest.mark.parametrize("value, advised", [(0.9 - 0.0501, True), (0.9 - 0.0499, False), (0.95, False)])
def test_an_index_that_finds_less_had_better_be_built_anew(sop_tree, finished_run, tmp_path, value, advised):
    pytest.importorskip("faiss")
    folder = tmp_path / "an index"
    flags = {"backend": "faiss", "faiss_kind": "ivf", "probes": 1}
    search("build", folder, data_dir=sop_tree, pretrained_model=finished_run, **flags)
    card = json.loads((folder / "index.json").read_text())
    card["recall"] |= {"value": value, "when_built": 0.9}
    (folder / "index.json").write_text(json.dumps(card))
    printed = search("find", folder, Index.open(folder).rows.paths()[0], k=1)
    lines = [line for line in printed.splitlines() if "build it anew" in line]
    assert len(lines) == advised
    for line in lines:
        assert line.startswith("recall@10 was 0.9000 when the index was built; build it anew, of all its images: ")
        words = shlex.split(line.partition("search.py ")[2])
        assert words[-2:] == ["--input", "..."]
        command, named, args = PROGRAMS["search"].parse_command(words)
        assert (command, named) == ("build", str(folder))
        own = {"overwrite": True, "pretrained_model": str(finished_run), "lists": 0}
        assert {name: args[name] for name in (*own, *flags)} == {**own, **flags}


def test_tables_of_many_queries_are_left_out(index, sop_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("report.hits.TABLES", 2)
    monkeypatch.setattr("report.hits.DRAWN", 3)
    printed = search("find", index, "Ebay_test.txt", data_dir=sop_tree, output=tmp_path / "hits.png")
    assert "the picture shows 3 of 30 queries" in printed
    printed = search("find", index, "Ebay_test.txt", data_dir=sop_tree, k=99, output=tmp_path / "hits.json")
    assert len(table(printed)) == 60 and "tables of 28 more queries are left out" in printed
    assert printed.count("holds 30 images, and all of them are shown") == 1
    assert [len(answer["hits"]) for answer in read_json(tmp_path / "hits.json")] == [30] * 30


def test_many_features_are_not_printed(sop_tree, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("infer.PRINTED", 5)
    files = [str(tmp_path / "x.npz"), str(tmp_path / "x.json")]
    line = as_line({**CPU, "data_dir": sop_tree, "pretrained_model": finished_run})
    printed = run("infer", [*line, "--scores", "--output", *files])
    assert "-feature" not in printed and len(re.findall("Test-.*-scores", printed)) == 5
    assert printed.endswith(f"30 images, 8 numbers each, written: {', '.join(files)}\n")
    loaded = load_table(files[0])
    images = loaded.records
    embeddings = loaded.matrix
    card = loaded.fingerprint
    assert card["model"] == "Tiny" and images.categories is not None
    np.testing.assert_array_equal(list(read_json(tmp_path / "x.json").values()), embeddings)


MISTAKES = [
    ("serach index", {}, "the command is 'serach'; it is one of build, add, delete, find"),
    ("biuld index", {}, "the command is 'biuld'", "Did you mean 'build'?"),
    ("--k=3", {}, "the command is '--k=3'; it is one of build"),
    ("", {}, "a command is missing; it is one of build, add, delete, find"),
    ("find", {"input": "q"}, "find needs the index's folder before its flags"),
    ("build new index", {}, "'index' stands behind no flag that takes it"),
    ("find index", {}, "find needs --input"),
    ("add index", {}, "add needs --input"),
    ("delete index", {}, "delete needs --input"),
    ("build new", {"pretrained_model": None}, "build needs --pretrained_model: nothing can be found again with random"),
    ("build new", {"k": 3}, "unknown flag '--k=3'"),
    ("add index", {"input": "q", "k": 3}, "unknown flag '--k=3'"),
    ("add index", {"input": "q", "search_memory_mb": 3}, "unknown flag '--search_memory_mb=3'"),
    ("add index", {"input": "q", "overwrite": True}, "unknown flag '--overwrite=True'"),
    ("add index", {"input": "q", "backend": "exact"}, "unknown flag '--backend=exact'"),
    ("find index", {"input": "q", "test_list": "x.txt"}, "unknown flag '--test_list=x.txt'"),
    ("find index", {"input": "q", "continue": True}, "unknown flag '--continue=True'"),
    ("find index", {"input": "q", "scores": True}, "unknown flag '--scores=True'"),
    ("find index", {"input": "q", "lists": 3}, "unknown flag '--lists=3'. It is an option of faiss."),
    ("delete index", {"input": "q", "output": "x.json"}, "unknown flag '--output=x.json'. Did you mean '--input'?"),
    ("delete index", {"input": "q", "batch_size": 3}, "unknown flag '--batch_size=3'"),
    ("delete index", {"input": "q", "pretrained_model": "output"}, "unknown flag '--pretrained_model=output'"),
    ("find index", {"input": "q", "k": 0}, "--k", "'0' is not an integer above 0"),
    ("find index", {"input": "q", "search_memory_mb": 0}, "'0' is not an integer above 0"),
    ("find nowhere", {"input": "q"}, "nowhere' is no index: there is no ", "index.json"),
    ("add nowhere", {"input": "q"}, "nowhere' is no index"),
    ("delete nowhere", {"input": "q"}, "nowhere' is no index"),
    ("find index", {"input": "none.jpg"}, "no file or folder 'none.jpg'"),
    ("find index", {"input": "q", "output": "x.npz"}, "x.npz': it has to end in .json or .png"),
    ("build new", {"output": "x.png"}, "it has to end in .npz, .npy, .json or .parquet"),
    ("build new", {"continue": True}, "--continue goes with --output of embeddings"),
    ("add index", {"input": "q", "continue": True}, "--continue goes with --output of embeddings"),
    ("delete index", {"input": "none.jpg"}, "none.jpg' is not in index", "nothing is deleted"),
    ("build new", {"backend": "fais"}, "unknown backend 'fais'", "Did you mean 'faiss'?"),
    ("build new", {"lists": 3}, "unknown flag '--lists=3'. It is an option of faiss."),
    ("build new", {"backend": "faiss", "faiss_kind": "ivfq"}, "'ivfq' is none of", "Did you mean 'ivf"),
    ("build new", {"backend": "faiss", "lists": 31}, "lists is 31, but there are only 30 items"),
    ("build new", {"backend": "faiss", "lists": "few"}, "--lists", "few"),
    ("build file", {}, "it is a file"),
    ("build file/new", {}, "cannot write", "Not a directory"),
    ("build photos", {}, "holds 'q.jpg'; an index takes a folder of its own"),
    ("build new", {"outptu": "x.npz"}, "unknown flag '--outptu=x.npz'", "Did you mean '--output'?"),
]


@pytest.mark.parametrize("command, flags, words", [(command, flags, words) for command, flags, *words in MISTAKES])
def test_mistaken_line(monkeypatch, capsys, index, sop_tree, finished_run, tmp_path, command, flags, words):
    if flags.get("backend") == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    query = shutil.copy(sorted(sop_tree.glob("*/1*_0.jpg"))[0], tmp_path / "photos" / "q.jpg")
    if command.startswith("build"):
        flags = {"data_dir": sop_tree, "pretrained_model": finished_run, **flags}
    if flags.get("input") == "q":
        flags = {**flags, "input": query}
    before = contents(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search.py", *command.split(), *as_line(flags)])
    with pytest.raises(SystemExit) as end:
        run_script(PROGRAMS["search"].main)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("search.py: ") and said.count("\n") == 1, said
    assert all(word in said for word in words), said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", [[], ["build"], ["add"], ["delete"], ["find"]])
def test_help_shows_what_a_command_takes(command, capsys):
    with pytest.raises(SystemExit) as end:
        PROGRAMS["search"].main([*command, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "INDEX [--flag=value ...]" in printed
    for flag, owners in {
        "--k ": ["find"],
        "--backend ": ["build"],
        "--input ": ["build", "add", "delete", "find"],
    }.items():
        assert (flag in printed.partition("options:")[2]) == any(owner in command for owner in owners), flag


def test_an_empty_index_says_so(sentence, index, sop_tree):
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    assert "30 images deleted" in search("delete", index, sop_tree)
    assert sentence("find", index, query) == f"index {str(index)!r} is empty: there is nothing to find"


def test_broken_embeddings_are_named_by_path(sentence, sop_tree, finished_run, tmp_path):
    broken = shutil.copytree(finished_run, tmp_path / "broken")
    state = torch.load(broken / "last.pt", weights_only=True)
    state["model"]["backbone.bn1.bias"][0] = float("nan")
    torch.save(state, broken / "last.pt")
    said = sentence("build", tmp_path / "i", data_dir=sop_tree, pretrained_model=broken)
    assert "_final" in said and "NaN or infinite" in said
    assert not (tmp_path / "i").exists()


@pytest.mark.slow
def test_in_a_process(sop_tree, tmp_path):
    """ResNet18 as a user runs it, from another folder: nothing on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    model = ["--model=ResNet18", "--image_shape=3,32,32", "--num_workers=0", "--use_gpu=False"]

    def call(*words):
        line = [sys.executable, ROOT / "search.py", *map(str, words)]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    torch.save(Embedder("ResNet18").state_dict(), tmp_path / "weights.pt")
    query = sorted(sop_tree.glob("*/1*_0.jpg"))[0]
    built = call("build", "index", *model, "--pretrained_model=weights.pt", "--input", query)
    assert (built.returncode, built.stderr) == (0, "") and built.stdout.endswith("1 image in index, backend exact\n")
    found = call("find", "index", "--num_workers=0", "--input", query)
    assert (found.returncode, found.stderr) == (0, "") and "1   1.0000        -  " in found.stdout


def test_only_some_labels_and_categories_are_looked_among(index, sop_tree, tmp_path, sentence):
    """Categories come from the list that the index was built of."""
    records = Index.open(index).rows
    shapes = dict(zip(records.labels().tolist(), Index.open(index).categories.tolist()))
    assert set(shapes.values()) == {"1", "2", "3", "4"}
    label = next(label for label, shape in shapes.items() if shape == "2")
    query, output = records.paths()[0], tmp_path / "hits.json"
    words = ["--labels", label, 11, "--categories", "2", "1"]
    printed = search("find", index, query, *words, k=9, output=output)
    [answer] = read_json(output)
    found = {(hit["label"], hit["category"]) for hit in answer["hits"]}
    assert (label, "2") in found and found <= {(label, "2"), (11, shapes[11])}
    shown = len(answer["hits"])
    assert f"holds {shown} images of these labels and categories, and all of them are shown" in printed
    assert sentence("find", index, query, labels="12x") == "no item has the label '12x'. Did you mean '12'?"
    assert "no item has the category 'disk'" in sentence("find", index, query, categories="disk")
