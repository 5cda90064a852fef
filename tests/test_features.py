"""Heads that learn from features in a file: the run stands behind its backbone, and files of others are refused."""

import numpy as np
import pytest
import torch
from runs import read_json, run, train_flags

from core.errors import InputError

pytestmark = pytest.mark.usefixtures("tiny")


def features_of(source, sop_tree, split, out):
    line = {"pretrained_model": source, "data_dir": sop_tree, "test_list": f"Ebay_{split}.txt", "output": out}
    line |= {"use_gpu": False, "num_workers": 0, "batch_size": 50}
    run("infer", [f"--{name}={value}" for name, value in line.items()])
    return out


@pytest.fixture(scope="module")
def files(finished_run, sop_tree, tmp_path_factory):
    """{split: .npz} of the embeddings of a stage 1 run. Read only."""
    folder = tmp_path_factory.mktemp("features")
    return {split: features_of(finished_run, sop_tree, split, folder / f"{split}.npz") for split in ("train", "test")}


def lane_flags(files, folder, source, /, **flags):
    left_open = {"model": None, "image_shape": None, "pretrained_model": source}
    given = {"features": files["train"], "test_features": files["test"], "embedding_size": 4, "lr": 0.1}
    return train_flags(None, folder, **{**left_open, **given, **flags})


def load(folder):
    return torch.load(folder / "last.pt", weights_only=True)


@pytest.mark.parametrize(
    "script, flags",
    [
        ("train_elem", {}),
        ("train_elem", {"head": "mlp", "loss_name": "arcmargin", "class_sample_rate": 0.5}),
        ("train_elem", {"head": "unit_linear", "init_embedding": "whitening"}),
        ("train_pair", {"head": "residual", "embedding_size": None}),
        ("train_pair", {"loss_name": "whitening", "embedding_size": None, "dimensions": 3}),
    ],
)
def test_a_head_learns_and_stands_behind_its_backbone(script, flags, files, finished_run, sop_tree, tmp_path):
    """The run that is saved embeds the test images to what its figures said, and the backbone is the old one."""
    run(script, lane_flags(files, tmp_path / "a", finished_run, **flags))
    before, after = load(finished_run)["model"], load(tmp_path / "a")["model"]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    features_of(tmp_path / "a", sop_tree, "test", tmp_path / "b.npz")
    line = ["--use_gpu=False", "--output_dir", tmp_path / "eval", "--embeddings", tmp_path / "b.npz"]
    run("eval", line)
    expected = read_json(tmp_path / "a/result.json")["recall"]["1"]
    assert read_json(tmp_path / "eval/result.json")["recall"]["1"] == pytest.approx(expected)


def test_only_the_head_changes_and_a_resumed_run_is_the_whole_one(files, finished_run, tmp_path):
    flags = {"loss_name": "softmax", "head": "mlp", "save_iter_step": 2, "test_iter_step": 2, "total_iter_num": 4}
    run("train_elem", lane_flags(files, tmp_path / "whole", finished_run, **flags))
    run("train_elem", lane_flags(files, tmp_path / "part", finished_run, **{**flags, "total_iter_num": 2}))
    line = [f"--checkpoint={tmp_path / 'part'}", "--total_iter_num=4", "--allow_changed=total_iter_num"]
    run("train_elem", line)
    whole, part = load(tmp_path / "whole"), load(tmp_path / "part")
    assert whole["model"].keys() == part["model"].keys()
    assert all(torch.equal(whole["model"][name], part["model"][name]) for name in whole["model"])


def test_an_embedding_layer_of_the_file_stays_below(sop_tree, tmp_path):
    run("train_elem", train_flags(sop_tree, tmp_path / "source", embedding_size=5))
    files = {
        split: features_of(tmp_path / "source", sop_tree, split, tmp_path / f"{split}.npz")
        for split in ("train", "test")
    }
    run("train_elem", lane_flags(files, tmp_path / "a", tmp_path / "source", head="unit_linear", embedding_size=3))
    assert load(tmp_path / "a")["facts"]["head"] == "linear:5,unit_linear"
    run("train_elem", [f"--config={tmp_path / 'a'}", f"--model_save_dir={tmp_path / 'b'}"])
    states = [load(tmp_path / name)["model"] for name in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_labels_may_be_held_out_of_the_file(files, finished_run, tmp_path):
    run("train_elem", lane_flags(files, tmp_path / "a", finished_run, test_features=None, val_classes=4))
    result = read_json(tmp_path / "a/result.json")
    assert result["tested_on"] == "4 train labels held out" and result["images"] == 12


def changed(files, tmp_path, split="train", **arrays):
    """The files, one of them with other arrays; None takes one away."""
    content = {**np.load(files[split]), **arrays}
    np.savez(tmp_path / "changed.npz", **{name: array for name, array in content.items() if array is not None})
    return {**files, split: tmp_path / "changed.npz"}


NO_NUMBER = np.full((30, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    "split, arrays, sentence",
    [
        ("train", {"labels": None}, "has no labels"),
        ("train", {"model": None}, "does not say which network made it"),
        ("train", {"model": np.array("null")}, "does not say which network made it"),
        ("train", {"embeddings": NO_NUMBER}, "30 rows are not finite, first that of"),
        ("train", {"labels": np.zeros(9, np.int64)}, "9 labels for 30 embeddings"),
        ("test", {"embeddings": np.zeros((30, 4), np.float32)}, "has 8 numbers a row, .* has 4"),
        ("test", {"model": np.array('{"model": "Tiny", "weights": "x"}')}, "were made by two models"),
    ],
)
def test_files_that_fit_nothing_are_sentences(split, arrays, sentence, files, finished_run, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run("train_elem", lane_flags(changed(files, tmp_path, split, **arrays), tmp_path / "x", finished_run))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"pretrained_model": None}, "was made by a Tiny; give it as --pretrained_model"),
        ({"test_features": None}, "tested on --test_features, or on --val_classes"),
        ({"val_classes": 2}, "tested on --test_features, or on --val_classes"),
        ({"features": None}, "--test_features go with --features"),
        ({"test_features": None, "val_classes": 10}, "val_classes is 10; with 10 train labels it can be 1 to 9"),
        ({"image_shape": "3,40,40"}, "was not made by .*: they differ in image_shape"),
        ({"report": True}, "--report shows images"),
        ({"views": 1, "init_embedding": "pca"}, "--views augment images"),
        ({"train_batch_size": 31}, "train_batch_size is 31"),
    ],
)
def test_flags_that_do_not_go_with_features_are_sentences(flags, sentence, files, finished_run, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run("train_elem", lane_flags(files, tmp_path / "x", finished_run, **flags))
    assert not (tmp_path / "x").exists()


def test_features_of_another_run_are_refused(files, finished_run, sop_tree, tmp_path):
    run("train_elem", train_flags(sop_tree, tmp_path / "other", seed=5))
    with pytest.raises(InputError, match="was not made by .*: they differ in weights"):
        run("train_elem", lane_flags(files, tmp_path / "x", tmp_path / "other"))
