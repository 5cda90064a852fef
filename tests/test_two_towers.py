"""Images and texts in one space: a network that learns where names stand, two towers, words that find images."""

import importlib
import json

import numpy as np
import pytest
import torch
from runs import read_json, run, train_flags

from core.errors import InputError
from data.lists import open_list
from data.mixed import InOrderByModality
from embeddings.files import load_table
from engine.class_vectors import fix_class_vectors
from losses import NormSoftmaxLoss
from models.two_towers import modality_of_input, read_towers

join_towers = importlib.import_module("recipes.join_towers")

pytestmark = pytest.mark.usefixtures("tiny")
NAMES = {1: "red disc", 2: "orange square", 3: "yellow triangle", 4: "lime cross", 5: "green disc", 6: "mint square"}
COMMON = ["--num_workers=0", "--use_gpu=False"]


@pytest.fixture(scope="module")
def lists(sop_tree, tmp_path_factory):
    """names.csv: a text for each train label; mixed.csv: names that ask, and the images of the train labels."""
    folder = tmp_path_factory.mktemp("lists")
    records = open_list("Ebay_train.txt", sop_tree, "train")
    labels = records.vocabulary.labels.tolist()
    texts = {label: NAMES.get(label, f"thing number {label}") for label in labels}
    rows = [f"{label},{text},train" for label, text in texts.items()]
    (folder / "names.csv").write_text("\n".join(["label,text,split", *rows]) + "\n")
    rows = [f"{label},{text},,validation,True,False" for label, text in texts.items()]
    for label, path in zip(records.labels.tolist(), records.paths.tolist()):
        rows.append(f"{label},,{path.removeprefix(str(sop_tree) + '/')},validation,False,True")
    (folder / "mixed.csv").write_text("\n".join(["label,text,path,split,is_query,is_gallery", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def words(lists, tmp_path_factory):
    """The folder of a small network for texts, as it was drawn."""
    folder = tmp_path_factory.mktemp("words") / "texts"
    flags = {"model": "HashedNgrams", "image_shape": None, "embedding_size": 12, "loss_name": "npairs"}
    line = {"data_dir": None, "train_list": lists / "names.csv", "val_classes": 3, "total_iter_num": 1}
    sampler = {"sampler": "shuffled", "loss_name": "softmax"}
    run("train_elem", train_flags(None, folder, **{**flags, **line, **sampler, "train_batch_size": 4}))
    return folder


@pytest.fixture(scope="module")
def towers(sop_tree, lists, words, tmp_path_factory):
    """A folder of two towers: names as the texts' network has them, and images that learned to be where these are."""
    folder = tmp_path_factory.mktemp("towers")
    vectors = folder / "names.npz"
    run("infer", [f"--pretrained_model={words}", f"--input={lists / 'names.csv'}", f"--output={vectors}", *COMMON])
    flags = {"loss_name": "norm_softmax", "class_vectors": vectors, "embedding_size": 12, "head": "mlp"}
    optimiser = {"optimiser": "adamw", "lr": 0.01, "lr_strategy": "constant", "total_iter_num": 30, "augment": "none"}
    lines = {**flags, **optimiser, "train_batch_size": 30, "display_iter_step": 30}
    run("train_elem", train_flags(sop_tree, folder / "images", **lines))
    join_towers.main([str(folder / "both"), str(folder / "images"), str(words)])
    return folder / "both"


def test_the_given_class_vectors_stay(lists, towers):
    table = load_table(str(towers.parent / "names.npz"), needs_roles=False)
    state = torch.load(towers.parent / "images" / "last.pt", weights_only=True)
    order = np.argsort(table.records.labels)
    expected = torch.nn.functional.normalize(table.matrix[torch.from_numpy(order)])
    torch.testing.assert_close(state["loss"]["weight"], expected)


def test_batches_are_of_one_modality(lists, sop_tree):
    records = open_list(lists / "mixed.csv", sop_tree, "test")
    assert records.noun == "row" and len(records) == 40
    both = [InOrderByModality(records, 4, rank, 2) for rank in range(2)]
    assert sorted(np.concatenate([batches.rows() for batches in both]).tolist()) == list(range(40))
    for batches in both:
        assert [[sample.index for sample in batch] for batch in batches] == [rows.tolist() for rows in batches.batches]
        assert all(len({path.startswith("text:") for path in records.paths[rows]}) == 1 for rows in batches.batches)
    assert modality_of_input(torch.zeros(2, 5).long()) == "text" and modality_of_input(torch.zeros(2, 5)) == "audio"
    assert modality_of_input(torch.zeros(1, 3, 4, 4)) == "image"


def test_names_find_images(lists, sop_tree, towers, tmp_path):
    line = [f"--pretrained_model={towers}", f"--data_dir={sop_tree}", f"--test_list={lists / 'mixed.csv'}", *COMMON]
    files = [f"--output_dir={tmp_path / 'eval'}", f"--save_embeddings={tmp_path / 'rows.npz'}"]
    said = run("eval", [*line, *files, f"--picture={tmp_path / 'found.png'}", f"--report={tmp_path / 'page.html'}"])
    assert "40 rows, 10 queries, 30 in the gallery" in said
    result = read_json(tmp_path / "eval" / "result.json")
    assert result["overall"]["recall@1"] > 0.3 if "overall" in result else True
    assert set(result["model"]["towers"]) == {"image", "text"}

    # As each network embeds its rows alone.
    table = load_table(str(tmp_path / "rows.npz"))
    of_texts = [str(path).startswith("text:") for path in table.records.paths]
    alone = load_table(str(towers.parent / "names.npz"), needs_roles=False)
    by_label = dict(zip(alone.records.labels.tolist(), alone.matrix))
    for row in np.flatnonzero(of_texts):
        torch.testing.assert_close(table.matrix[row], by_label[table.records.labels[row]], rtol=1e-4, atol=1e-6)
    assert set(table.fingerprint["towers"]) == {"image", "text"}


def test_words_find_in_an_index_of_images(lists, sop_tree, towers, tmp_path):
    index = tmp_path / "images.index"
    build = ["build", index, f"--pretrained_model={towers}", f"--data_dir={sop_tree}", *COMMON, "--batch_size=8"]
    assert "30 images in" in run("search", [*build, f"--input={sop_tree / 'Ebay_train.txt'}"])
    hits = tmp_path / "hits.json"
    find = ["find", index, "--text", NAMES[1], NAMES[5], "--k=3", *COMMON, "--output", hits, tmp_path / "hits.png"]
    said = run("search", find)
    first, second = json.loads(hits.read_text())
    assert first["query"] == f"text:{NAMES[1]}" and f"text:{NAMES[1]}" in said
    assert len(second["hits"]) == 3 and second["hits"][0]["path"].endswith(".jpg")
    # An image asks as well, of the same index.
    picture = second["hits"][0]["path"]
    run("search", ["find", index, "--input", picture, "--k=1", *COMMON, "--output", hits])
    assert json.loads(hits.read_text())[0]["hits"][0]["path"] == picture


def test_words_find_through_a_server(lists, sop_tree, towers, tmp_path):
    """What `search.py serve` finds by words is what `search.py find` does."""
    pytest.importorskip("starlette", reason="starlette is not installed")
    testclient = pytest.importorskip("starlette.testclient", reason="httpx is not installed")
    from models import ModelSettings
    from serving.app import Server
    from serving.encoding import open_live_encoder
    from serving.settings import ServeSettings

    index = tmp_path / "images.index"
    run("search", ["build", index, f"--pretrained_model={towers}", f"--data_dir={sop_tree}", *COMMON, "--batch_size=8"])
    found = tmp_path / "found.json"
    run("search", ["find", index, "--text", "disc", "--k=5", f"--output={found}", *COMMON])
    encoder = open_live_encoder(ModelSettings(pretrained_model=str(towers)), torch.device("cpu"), "fp32", "torch")
    assert encoder.takes == {"image", "text"}
    server = Server(str(index), encoder, ServeSettings())
    with testclient.TestClient(server.app, base_url="http://127.0.0.1") as client:
        hits = client.post("/api/search", json={"text": "disc", "k": 5}).json()["queries"][0]["hits"]
    expected = read_json(found)[0]["hits"]
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected], abs=1e-4)


def sentence(script, line):
    with pytest.raises(InputError) as error:
        run(script, line)
    return str(error.value)


def test_what_cannot_be(sop_tree, lists, words, towers, tmp_path):
    vectors = towers.parent / "names.npz"
    flags = {"loss_name": "norm_softmax", "class_vectors": vectors, "embedding_size": 8}
    said = sentence("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    assert said.endswith("has 12 numbers a row, and embeddings are 8 wide; give --embedding_size=12")
    loss = NormSoftmaxLoss(12, 10)
    with pytest.raises(InputError, match="has no row of 10 of 10 train labels, first '11'"):
        fix_class_vectors(loss, open_list("Ebay_test.txt", sop_tree, "train"), class_vectors=str(vectors))
    flags = {"loss_name": "soft_triple", "class_vectors": vectors, "embedding_size": 12}
    assert "are the weights of a loss with one for each label" in sentence(
        "train_elem", train_flags(sop_tree, tmp_path / "run", **flags)
    )
    assert not (tmp_path / "run").exists()

    (tmp_path / "towers.json").write_text('{"towers": {"text": {"model": "HashedNgrams"}}}')
    with pytest.raises(InputError, match="does not name two towers"):
        read_towers(tmp_path)
    card = read_json(towers / "towers.json")
    card["towers"]["image"] = card["towers"]["text"]
    (tmp_path / "towers.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="the tower 'image'"):
        read_towers(tmp_path)
    with pytest.raises(SystemExit):
        join_towers.main([str(tmp_path / "x"), str(words), str(words)])
    with pytest.raises(SystemExit):
        join_towers.main([str(tmp_path / "x"), str(words), "ResNet18"])
    assert not (tmp_path / "x").exists()
