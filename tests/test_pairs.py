"""Two networks that learn from pairs of an image and a text: what a list gives, a run, its folder, what is refused."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import numpy as np
import pytest
import torch
from processes import torchrun
from runs import read_json, run, train_flags

from core.errors import InputError
from core.items import is_text
from core.pairs import ImageTextBatch
from data.hold_out import hold_out
from data.lists import open_list
from data.loader import open_train_loader
from data.pairs import as_pairs, as_questions
from data.samplers import ShuffledSampler
from engine.learner import Learner
from engine.objective import Objective
from engine.step import backward
from losses import ClipLoss
from models import ModelSettings, TowerSettings, build_towers, read_towers

pytestmark = pytest.mark.usefixtures("tiny")
COLOURS = ("red", "orange", "yellow", "lime", "green", "mint", "cyan", "blue", "violet", "pink")
CPU = torch.device("cpu")
TEXTS = {"text_model": "HashedNgrams", "embedding_size": 6}


@pytest.fixture(scope="module")
def pairs(sop_tree, tmp_path_factory):
    """A csv of which every row has a path and a text; those to test on are of other labels."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    lines = ["label,text,path,split"]
    for name, split in (("Ebay_train.txt", "train"), ("Ebay_test.txt", "validation")):
        for line in (sop_tree / name).read_text().splitlines()[1:]:
            number, label, _, path = line.split()
            view = "from afar" if int(number) % 3 else "close"
            text = f"a {COLOURS[int(label) % 10]} {path.split('_')[0]} seen {view}"
            lines.append(f"{label},{text},{path},{split}")
    file.write_text("\n".join(lines) + "\n")
    return file


def flags_of(sop_tree, pairs, folder, **flags):
    lists = {"train_list": pairs, "test_list": pairs, "loss_name": "clip", "optimiser": "adamw", "lr": 0.01}
    return train_flags(sop_tree, folder, **{**lists, "augment": "none", **TEXTS, **flags})


@pytest.fixture(scope="module")
def towers(sop_tree, pairs, tmp_path_factory):
    """The folder of a run of six steps on such pairs."""
    folder = tmp_path_factory.mktemp("towers") / "run"
    run("train_pair", flags_of(sop_tree, pairs, folder, total_iter_num=6))
    return folder


def state_of(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# What a list gives.


def test_a_row_is_a_pair_to_train_with_and_two_to_test_on(sop_tree, pairs):
    train, test = open_list(pairs, sop_tree, "train"), open_list(pairs, sop_tree, "test")
    assert any("the text is not used" in note for note in train.notes)
    train, test = as_pairs(train), as_questions(test)
    assert len(train) == 30 and train.texts[0].startswith("a ") and not train.notes
    asked = np.array([is_text(path) for path in test.paths])
    # Of three images of a label two have one text, the third another.
    assert asked.sum() == 20 and len(test) == 50
    assert np.array_equal(asked, test.is_query) and np.array_equal(~asked, test.is_gallery)
    # Where texts stand in rows of their own, the list says itself who asks.
    alone = open_list("Ebay_test.txt", sop_tree, "test")
    assert as_questions(alone) is alone
    with pytest.raises(InputError, match=r"image '.*' has no text, and the loss clip learns from pairs"):
        as_pairs(alone)


@pytest.mark.parametrize("held_out", [False, True])
def test_an_image_with_several_captions_is_asked_for_by_each(sop_tree, pairs, tmp_path, held_out):
    """The same image, its captions in rows of their own, one of them twice."""
    head, *rows = Path(pairs).read_text().splitlines()
    place = head.split(",").index("text")
    several = [head]
    for row in rows:
        cells = row.split(",")
        for caption in (cells[place], "seen from afar", "seen from afar"):
            several.append(",".join([*cells[:place], caption, *cells[place + 1 :]]))
    path = tmp_path / "captions.csv"
    path.write_text("\n".join(several) + "\n")
    if held_out:
        test = hold_out(open_list(path, sop_tree, "train"), 4)[1]
        once = hold_out(open_list(pairs, sop_tree, "train"), 4)[1]
    else:
        test, once = open_list(path, sop_tree, "test"), open_list(pairs, sop_tree, "test")
    test, once = as_questions(test), as_questions(once)
    labels = set(test.labels.tolist())
    expected = sorted([(label, "text:seen from afar") for label in labels])
    expected += [(label, path) for label, path in zip(once.labels.tolist(), once.paths.tolist()) if is_text(path)]
    found = zip(test.labels[test.is_query].tolist(), test.paths[test.is_query].tolist())
    assert sorted(found) == sorted(expected)
    assert sorted(test.paths[test.is_gallery]) == sorted(once.paths[once.is_gallery])


def test_batches_of_pairs(sop_tree, pairs):
    records = as_pairs(open_list(pairs, sop_tree, "train"))
    towers = {"image": ModelSettings(model="Tiny", image_shape=(3, 32, 32))}
    towers["text"] = ModelSettings(model="HashedNgrams")
    sampler = ShuffledSampler(records.vocabulary, 4)
    loader = open_train_loader(records, sampler, TowerSettings(None, towers), CPU, num_workers=0, augment=())
    inputs, codes, rows = next(iter(loader))
    assert len(inputs) == 4 and inputs.images.shape == (4, 3, 32, 32) and inputs.texts.shape[0] == 4
    assert torch.equal(rows[0::2], rows[1::2]) and len(codes) == 8
    assert torch.equal(codes, torch.from_numpy(records.vocabulary.codes)[rows])
    tokenizer = towers["text"].open_tokenizer()
    own = tokenizer(records.texts[rows[2]])
    assert inputs.texts[1, : len(own)].tolist() == own and (inputs.texts[1, len(own) :] < 0).all()
    assert [len(part) for part in inputs.split(3)] == [3, 1]


# A step.


def small_towers(seed=0, frozen=None, **settings):
    torch.manual_seed(seed)
    images = ModelSettings(model="Tiny", image_shape=(3, 32, 32), embedding_size=6, **settings)
    texts = ModelSettings(model="HashedNgrams", embedding_size=6)
    return build_towers(TowerSettings(None, {"image": images, "text": texts}, frozen), True, freeze_bn=True)


def batch_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    texts = torch.randint(1, 99, (count, 5), generator=generator)
    return ImageTextBatch(images, texts), torch.arange(count).repeat_interleave(2) // 4


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_have_the_gradient_of_the_whole(micro_batch):
    inputs, labels = batch_of(5)
    slopes = []
    for size in (0, micro_batch):
        objective = Objective(small_towers(), ClipLoss()).train()
        value = backward(Learner(objective, None, CPU, micro_batch=size), inputs, labels)
        slopes.append({name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None})
    assert slopes[0].keys() == slopes[1].keys() and "loss.log_change" in slopes[0]
    for name, slope in slopes[0].items():
        torch.testing.assert_close(slopes[1][name], slope, rtol=1e-4, atol=1e-6)
    # The loss by hand: both cross-entropies over the pairs, those of one label left out.
    network = small_towers().train()
    with torch.no_grad():
        both = [torch.nn.functional.normalize(network.towers["image"](inputs.images))]
        both.append(torch.nn.functional.normalize(network.towers["text"](inputs.texts)))
    scores = both[0] @ both[1].T / 0.07
    same = labels[0::2, None] == labels[None, 0::2]
    scores[same & ~torch.eye(5, dtype=torch.bool)] = -torch.inf
    own = torch.arange(5)
    expected = torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)
    torch.testing.assert_close(value, expected / 2, rtol=1e-5, atol=1e-6)


def test_a_frozen_network_stays_and_depths_meet_at_the_head():
    network = small_towers(frozen="text").train()
    assert not any(weight.requires_grad for weight in network.towers["text"].parameters())
    assert not network.towers["text"].training and network.towers["image"].training
    deepest = len(network.stages)
    assert network.depth_of("towers.image.head.weight") == network.depth_of("towers.text.head.weight") == deepest
    assert network.depth_of("towers.image.backbone.conv1.weight") == deepest - 1


# Runs.


def test_a_run_is_a_folder_of_towers(sop_tree, towers, pairs, tmp_path):
    result = read_json(towers / "result.json")
    assert result["images"] == 50 and set(result["model"]["towers"]) == {"image", "text"}
    settings = read_towers(towers).towers
    assert settings["image"].image_shape == (3, 32, 32) and settings["text"].model == "HashedNgrams"
    assert settings["text"].pretrained_model == str(towers / "text")
    # What it saves for others is what its last checkpoint holds.
    line = [f"--pretrained_model={towers}", "--num_workers=0", "--use_gpu=False"]
    vectors = tmp_path / "two.npz"
    run("infer", [*line, "--text", "a red disc", f"--output={vectors}"])
    network = build_towers(TowerSettings(None, settings), False)
    network.load_state_dict(state_of(towers)["model"])
    numbers = torch.tensor([settings["text"].open_tokenizer()("a red disc")])
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(np.load(vectors)["embeddings"]), network.eval()(numbers))
    # And what the run was tested on is what eval.py finds, of a list with texts in rows of their own.
    rows = as_questions(open_list(pairs, sop_tree, "test"))
    lines = ["label,text,path,split,is_query,is_gallery"]
    for label, path, asks in zip(rows.labels, rows.paths, rows.is_query):
        cells = f"{path[5:]}," if is_text(path) else f",{path.removeprefix(f'{sop_tree}/')}"
        lines.append(f"{label},{cells},validation,{asks},{not asks}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    run("eval", [*line, f"--data_dir={sop_tree}", f"--test_list={tmp_path / 'rows.csv'}", f"--output_dir={tmp_path}"])
    assert read_json(tmp_path / "result.json")["recall"]["1"] == pytest.approx(result["recall"]["1"])


def test_three_and_three_steps_are_six(sop_tree, pairs, towers, tmp_path):
    run("train_pair", flags_of(sop_tree, pairs, tmp_path / "run", total_iter_num=3))
    half = read_json(tmp_path / "run" / "towers.json")
    run("train_pair", [f"--checkpoint={tmp_path / 'run'}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    for part in ("model", "loss"):
        assert_same(state_of(tmp_path / "run")[part], state_of(towers)[part])
    assert state_of(tmp_path / "run")["loss"]["log_change"] != 0
    assert read_json(tmp_path / "run" / "towers.json") == half


@pytest.mark.slow
def test_two_ranks_are_one(sop_tree, pairs, tmp_path):
    """Seven pairs, which two ranks do not share evenly."""
    flags = {"train_batch_size": 7, "freeze_bn": True, "precision": "fp32", "optimiser": "momentum"}
    line = flags_of(sop_tree, pairs, tmp_path / "two", **flags)
    torchrun(2, "train_pair", *line).check_returncode()
    run("train_pair", flags_of(sop_tree, pairs, tmp_path / "one", **flags))
    for part in ("model", "loss"):
        ours, theirs = state_of(tmp_path / "two")[part], state_of(tmp_path / "one")[part]
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
    found = [read_json(tmp_path / folder / "result.json")["recall"] for folder in ("one", "two")]
    assert found[0] == found[1] and (tmp_path / "two" / "text" / "model.safetensors").is_file()


def test_a_folder_of_towers_is_trained_further(sop_tree, pairs, towers, tmp_path):
    flags = {"pretrained_model": towers, "model": None, "text_model": None, "embedding_size": None, "image_shape": None}
    frozen = {"freeze_tower": "text", "learn_temperature": False, "total_iter_num": 2, "lr_strategy": "constant"}
    run("train_pair", flags_of(sop_tree, pairs, tmp_path / "run", **flags, **frozen))
    before, after = state_of(towers)["model"], state_of(tmp_path / "run")["model"]
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("towers.text."))
    assert not torch.equal(before["towers.image.head.weight"], after["towers.image.head.weight"])
    assert state_of(tmp_path / "run")["loss"] == {} and read_towers(tmp_path / "run").towers["image"].model == "Tiny"
    # A run in its place leaves nothing of it.
    others = {"train_list": "Ebay_train.txt", "test_list": "Ebay_test.txt", "loss_name": "triplet", "overwrite": True}
    run("train_pair", train_flags(sop_tree, tmp_path / "run", **others))
    assert read_towers(tmp_path / "run") is None and not (tmp_path / "run" / "text" / "model.json").exists()


def test_a_micro_batch_may_be_one_pair(sop_tree, pairs, tmp_path):
    """The last one of each batch is, which both networks are asked whether they can train on."""
    sizes = {"train_batch_size": 3, "micro_batch": 2, "total_iter_num": 1}
    run("train_pair", flags_of(sop_tree, pairs, tmp_path / "run", **sizes))
    assert read_json(tmp_path / "run" / "result.json")["step"] == 1


def test_labels_that_are_held_out_are_asked_by_their_texts(sop_tree, pairs, tmp_path):
    rates = {"layer_decay": 0.5, "head_lr": 0.1, "freeze_steps": 1, "ema": 0.5, "clip_norm": 1.0, "micro_batch": 2}
    line = flags_of(sop_tree, pairs, tmp_path / "run", test_list=None, val_classes=4, **rates, same_label="positive")
    said = run("train_pair", line)
    assert "clip on 18 images of 6 labels, tested on 4 train labels held out" in said
    assert read_json(tmp_path / "run" / "result.json")["images"] == 12 + 8


def test_both_networks_of_a_clip_learn(sop_tree, pairs, tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "paired.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "paired.json")
    try:
        flags = {"model": "clip:paired", "text_model": None, "embedding_size": None, "image_shape": None, "lora": 2}
        run("train_pair", flags_of(sop_tree, pairs, tmp_path / "run", **flags))
        towers = read_towers(tmp_path / "run").towers
        assert towers["text"].model == "clip_text:paired" and towers["image"].image_shape == (3, 32, 32)
        state = state_of(tmp_path / "run")["model"]
        thin = [name for name in state if name.endswith(".up")]
        assert {name.split(".")[1] for name in thin} == {"image", "text"} and all(state[name].any() for name in thin)
        line = [f"--pretrained_model={tmp_path / 'run'}", "--num_workers=0", "--use_gpu=False"]
        index = tmp_path / "images.index"
        run("search", ["build", index, *line, f"--input={sop_tree / 'Ebay_test.txt'}", f"--data_dir={sop_tree}"])
        assert "text:a disc" in run("search", ["find", index, "--text", "a disc", "--k=2", *line[1:]])
    finally:
        open_clip.factory._MODEL_CONFIGS.pop("paired", None)


# What cannot be.


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"train_list": "Ebay_train.txt", "test_list": "Ebay_test.txt"}, "has no text, and the loss clip learns from"),
        ({"text_model": None}, "trains a network for images with one for texts: give both by a folder of towers"),
        ({"text_model": "HashedNgram"}, "Did you mean 'HashedNgrams'"),
        ({"text_model": "Tiny"}, "--text_model=Tiny takes images"),
        ({"embedding_size": None}, "embeddings of one width, but these are image 8, text"),
        ({"miner": "hard"}, "--miner=hard"),
        ({"memory_size": 9}, "memory"),
        ({"keep_classes": 0.1}, "--keep_classes does not go with --loss_name=clip"),
        ({"features": "x.npz"}, "--features does not go with --loss_name=clip"),
        ({"sampler": "neighbours"}, "--sampler=neighbours does not go with --loss_name=clip"),
        ({"loss_name": "triplet"}, "--text_model goes with --loss_name=clip"),
        ({"same_label": "left"}, "left_out"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_what_cannot_be(sop_tree, pairs, tmp_path, flags, sentence):
    with pytest.raises(InputError) as error:
        run("train_pair", flags_of(sop_tree, pairs, tmp_path / "run", **flags))
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_a_folder_of_towers_leaves_no_choice_of(sop_tree, pairs, towers, tmp_path):
    for flags, sentence in (
        ({"text_model": "HashedNgrams"}, "has a network for texts already"),
        ({"text_model": None, "embedding_size": 9}, "--embedding_size=9 says nothing of two networks"),
    ):
        line = flags_of(sop_tree, pairs, tmp_path / "run", **{**flags, "pretrained_model": towers, "model": None})
        with pytest.raises(InputError, match=sentence):
            run("train_pair", line)
