"""A model for images that shares its space with texts: words find images without any joining."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import numpy as np
import pytest
import torch
from runs import read_json, run, train_flags

from core.errors import InputError
from models import BACKBONES, ModelSettings, with_text_tower
from models.backbones import open_clip as rows

COMMON = ["--num_workers=0", "--use_gpu=False", "--batch_size=8"]
WORDS = ["a red disc", "a blue square"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The name of a network of open_clip with weights in a file, and the network."""
    open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (folder / "wordy.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "wordy.json")
    torch.manual_seed(0)
    net = open_clip.create_model("wordy").eval()
    torch.save(net.state_dict(), folder / "both.pt")
    open_clip.pretrained._PRETRAINED["wordy"] = {"ours": {"file": str(folder / "both.pt")}}
    yield "clip:wordy/ours", net, folder / "both.pt"
    open_clip.factory._MODEL_CONFIGS.pop("wordy")
    open_clip.pretrained._PRETRAINED.pop("wordy")


@pytest.fixture(scope="module")
def mixed(sop_tree, tmp_path_factory):
    """A list of two texts that ask and the test images."""
    file = tmp_path_factory.mktemp("lists") / "mixed.csv"
    lines = ["label,text,path,split,is_query,is_gallery", "11,a red disc,,validation,True,False"]
    lines.append("12,a blue square,,validation,True,False")
    for line in (sop_tree / "Ebay_test.txt").read_text().splitlines()[1:]:
        _, label, _, path = line.split()
        lines.append(f"{label},,{path},validation,False,True")
    file.write_text("\n".join(lines) + "\n")
    return file


def matrix_of(file):
    return torch.from_numpy(np.load(file)["embeddings"])


def texts_of(net, words):
    tokenizer = pytest.importorskip("open_clip").get_tokenizer("wordy")
    with torch.no_grad():
        return net.encode_text(tokenizer(words))


def never(*_):
    raise AssertionError("the network for texts is opened where there are no texts")


@pytest.mark.parametrize("weights", ["published", "ours", "file"])
def test_words_find_in_an_index_of_images_alone(clip, sop_tree, tmp_path, monkeypatch, weights):
    name, net, file = clip
    source = file if weights == "file" else weights
    index = tmp_path / "images.index"
    line = ["build", index, f"--model={name}", f"--pretrained_model={source}", *COMMON, f"--input={sop_tree}"]
    with monkeypatch.context() as patched:
        patched.setattr(rows, "build_text_tower", never)
        run("search", line)
    hits = tmp_path / "hits.json"
    run("search", ["find", index, "--text", *WORDS, "--k=3", *COMMON, "--output", hits])
    first, second = json.loads(hits.read_text())
    assert first["query"] == "text:a red disc" and second["hits"][0]["path"].endswith(".jpg")

    # By the cosines of open_clip's own towers.
    vectors = tmp_path / "images.npz"
    run(
        "infer",
        [f"--model={name}", f"--pretrained_model={source}", *COMMON, f"--input={sop_tree}", f"--output={vectors}"],
    )
    images = torch.nn.functional.normalize(matrix_of(vectors))
    cosines = images @ torch.nn.functional.normalize(texts_of(net, WORDS)).T
    np.testing.assert_allclose(first["hits"][0]["score"], cosines[:, 0].max(), atol=1e-5)
    np.testing.assert_allclose(second["hits"][0]["score"], cosines[:, 1].max(), atol=1e-5)


def test_texts_alone_and_lists_of_both_kinds(clip, sop_tree, mixed, tmp_path):
    name, net, _ = clip
    model = [f"--model={name}", "--pretrained_model=published", *COMMON]
    run("infer", [*model, "--text", *WORDS, f"--output={tmp_path / 'two.npz'}"])
    alone = matrix_of(tmp_path / "two.npz")
    torch.testing.assert_close(alone, texts_of(net, WORDS), rtol=1e-4, atol=1e-5)
    lists = [f"--data_dir={sop_tree}", f"--test_list={mixed}"]
    said = run("eval", [*model, *lists, f"--output_dir={tmp_path}", f"--save_embeddings={tmp_path / 'all.npz'}"])
    assert "32 rows, 2 queries, 30 in the gallery" in said
    assert set(read_json(tmp_path / "result.json")["model"]["towers"]) == {"image", "text"}
    torch.testing.assert_close(matrix_of(tmp_path / "all.npz")[:2], alone, rtol=1e-4, atol=1e-5)
    # The network for texts has a name of its own.
    run(
        "infer",
        [f"--model={name.replace(':', '_text:')}", *model[1:], "--text", *WORDS, f"--output={tmp_path / '2.npz'}"],
    )
    assert torch.equal(matrix_of(tmp_path / "2.npz"), alone)


def test_an_index_of_both_kinds_tells_of_texts(clip, sop_tree, mixed, tmp_path):
    name, _, _ = clip
    index = tmp_path / "both.index"
    build = ["build", index, f"--model={name}", "--pretrained_model=published", *COMMON, f"--data_dir={sop_tree}"]
    run("search", [*build, f"--input={mixed}"])
    card = read_json(index / "index.json")
    assert card["fingerprint"]["model"] == name and card["fingerprint"]["texts"]["model"] == "clip_text:wordy/ours"
    run("search", ["find", index, "--text", "a disc", "--k=2", *COMMON])
    run("search", ["add", index, f"--input={sop_tree / 'Ebay_train.txt'}", *COMMON])
    card["fingerprint"]["texts"]["weights"] = "other"
    (index / "index.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="was made by another model; what differs: texts"):
        run("search", ["find", index, "--text", "a disc", "--k=2", *COMMON])


def test_a_run_of_such_a_model_and_texts(clip, sop_tree, tmp_path):
    name, _, _ = clip
    flags = {"image_shape": None, "pretrained_model": "published", "loss_name": "softmax", "total_iter_num": 1}
    run("train_elem", train_flags(sop_tree, tmp_path / "same", model=name, **flags))
    run("train_elem", train_flags(sop_tree, tmp_path / "wide", model=name, embedding_size=12, **flags))
    said = run("infer", [f"--pretrained_model={tmp_path / 'same'}", "--text", "a disc", *COMMON])
    assert "texts are embedded by clip_text:wordy/ours as published" in said
    with pytest.raises(InputError, match="embeds images as 12 numbers and clip_text:wordy/ours texts as 8"):
        run("infer", [f"--pretrained_model={tmp_path / 'wide'}", "--text", "a disc", *COMMON])
    # Of weights without a name there are none for texts beside a run.
    flags["pretrained_model"] = clip[2]
    run("train_elem", train_flags(sop_tree, tmp_path / "file", model="clip:wordy", **flags))
    with pytest.raises(InputError, match="holds no network for texts, and clip_text:wordy names no weights"):
        run("infer", [f"--pretrained_model={tmp_path / 'file'}", "--text", "a disc", *COMMON])
    with pytest.raises(InputError, match="text 'a disc', but the model takes images"):
        run("infer", ["--model=ResNet18", "--text", "a disc", *COMMON])


def test_keys_of_omls_zoo_have_texts_where_openclip_does():
    pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    row = BACKBONES["openai_vitb32_224"]("openai_vitb32_224")
    assert row.texts == "clip_text:ViT-B-32/openai"
    assert BACKBONES["sber_vitb32_224"]("sber_vitb32_224").texts is None
    towers = with_text_tower(ModelSettings(model="openai_vitb32_224", pretrained_model="published")).towers
    assert towers["text"].model == "clip_text:ViT-B-32/openai" and towers["text"].pretrained_model == "published"
    assert with_text_tower(ModelSettings()) is None
