"""The four scripts as users run them: what they print, what they leave behind, and what that is worth."""

import hashlib
import itertools
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
from oracles import recall
from runs import SCRIPTS, as_line, embedding_moves, read_json, read_metrics, run, train_flags
from tolerances import about, assert_within, decimal_error, gamma

from config.commands import TRAIN_ELEM
from config.parse import parse
from losses import LOSSES

ROOT = Path(__file__).parents[1]
ELEM = LOSSES.names(stage="elem")
PAIR = [name for name in LOSSES.names(stage="pair") if LOSSES.fact(name, "pairs") is None]
CPU = {"use_gpu": False, "num_workers": 0}
STAMP = r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "
NUMBER = r"-?[\d.]+(e[+-]\d+)?"


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def elem_runs(sop_tree, tmp_path_factory):
    """{loss: (run folder, what was printed)} of one stage 1 run per loss."""
    root = tmp_path_factory.mktemp("elem")
    steps = {"save_iter_step": 2, "test_iter_step": 2, "enable_ce": True}
    lines = {loss: train_flags(sop_tree, root / loss, loss_name=loss, **steps) for loss in ELEM}
    return {loss: (root / loss, run("train_elem", line)) for loss, line in lines.items()}


@pytest.fixture(scope="module")
def pair_runs(sop_tree, elem_runs, tmp_path_factory):
    """{loss: (run folder, what was printed)} of one stage 2 run per loss, the model flags left to the stage 1 run."""
    root = tmp_path_factory.mktemp("pair")
    left_open = {"model": None, "image_shape": None, "pretrained_model": elem_runs["softmax"][0]}
    lines = {loss: train_flags(sop_tree, root / loss, loss_name=loss, **left_open) for loss in PAIR}
    return {loss: (root / loss, run("train_pair", line)) for loss, line in lines.items()}


@pytest.fixture(scope="module")
def user_runs(sop_tree, tmp_path_factory):
    """Each script in a process of its own, in the order in which a user runs them; {script: finished process}."""
    root = tmp_path_factory.mktemp("user")
    data = {"data_dir": sop_tree, "num_workers": 1}
    steps = {"train_batch_size": 6, "total_iter_num": 2}
    model = {"model": "ResNet18", "image_shape": "3,32,32", "model_save_dir": root / "arc", "loss_name": "arcmargin"}
    second = {"pretrained_model": root / "arc", "model_save_dir": root / "arc+eml", "loss_name": "eml"}
    lines = {
        "train_elem": as_line({**data, **steps, **model}),
        "train_pair": as_line({**data, **steps, **second, "samples_each_class": 3}),
        "eval": as_line({**data, "pretrained_model": root / "arc+eml", "picture": root / "neighbours.png"}),
        "infer": as_line({**data, "pretrained_model": root / "arc", "output": root / "x.json"}) + ["--scores"],
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    yield {
        script: subprocess.run(
            [sys.executable, f"{script}.py", *line], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        for script, line in lines.items()
    }
    shutil.rmtree(root)


def comparable(run_dir):
    """result.json without what the clock decides."""
    result = read_json(run_dir / "result.json")
    del result["seconds"], result["train"]["time"]
    return result


def embeddings_of(sop_tree, run_dir, folder, *words, **flags):
    """paths, labels, embeddings in fp32 as infer.py writes them for a run."""
    flags = {"pretrained_model": run_dir, "output": folder / "x.npz", "precision": "fp32", **CPU, **flags}
    line = as_line({"data_dir": sop_tree, **flags})
    run("infer", [*line, *words])
    return dict(np.load(folder / "x.npz"))


def batch_error(run_dir, paths):
    """How far embeddings of Tiny may be apart where batches of another size choose another kernel.

    A filter adds 75 products, the mean 7 x 7 places.
    """
    _, moves = embedding_moves(run_dir, paths)
    return 2 * gamma(75 + 49 + 16, torch.float32) * moves.max()


@pytest.mark.parametrize("script", SCRIPTS)
def test_process_ends_well(user_runs, script):
    process = user_runs[script]
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


def test_process_lines(user_runs):
    assert re.search(STAMP + f"trainbatch 2, lr 0.01, loss {NUMBER}, acc1", user_runs["train_elem"].stdout, re.M)
    assert "arc: not used: loss.weight\n" in user_runs["train_pair"].stdout
    assert re.search(STAMP + "--model=ResNet18 --.* taken from", user_runs["train_pair"].stdout, re.M)
    assert re.search(r"^End test 30, test_recall [01]\.\d{5}\n\Z", user_runs["eval"].stdout, re.M)
    assert len(re.findall(r"^Test-\d+-scores: ", user_runs["infer"].stdout, re.M)) == 30


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, capsys):
    with pytest.raises(SystemExit) as end:
        SCRIPTS[script].main(["--help"])
    assert end.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"python {script}.py" in words
    for group in ("data:", "device:", "model:"):
        assert group in words
    assert (
        "--test_list TEST_LIST SOP list, csv, folder per label, tar or parquet files, or a packed list of the test images; "
        "a training run may have several, "
        "comma-separated (default: Ebay_test.txt)" in words
    )


@pytest.mark.parametrize("loss", ELEM)
def test_elem_prints_the_ancestors_lines(elem_runs, loss, record_property):
    printed = elem_runs[loss][1]
    figures = "".join(f", {name} {NUMBER}" for name in ("lr", "loss", "acc1", "acc5", "time"))
    assert len(re.findall(STAMP + rf"trainbatch [123]{figures} sec$", printed, re.M)) == 3
    assert len(re.findall(STAMP + r"test_img_num 30, trainbatch [23], test_recall [01]\.\d{5}$", printed, re.M)) == 2
    kpis = re.findall(r"^kpis\t(\w+)\t[\d.e-]+$", printed, re.M)
    assert kpis == ["train_loss", "train_acc1", "train_acc5", "train_time", "test_recall"]
    record_property("printed", re.search(rf"trainbatch 1{figures} sec$", printed, re.M)[0])


@pytest.mark.parametrize("loss", ELEM)
def test_run_folder(elem_runs, sop_tree, loss):
    run_dir = elem_runs[loss][0]
    plain = {"config.json", "metrics.jsonl", "result.json", "best.pt", "last.pt", "step_2.pt", "step_3.pt"}
    plain |= {"model.json", "model.safetensors"}
    files = {path.name for path in run_dir.iterdir()}
    assert {name for name in files if not name.startswith("events.out.tfevents.")} == plain
    assert len(files) == len(plain) + 1
    assert (run_dir / "last.pt").read_bytes() == (run_dir / "step_3.pt").read_bytes()

    config = read_json(run_dir / "config.json")
    assert config.keys() == {"flags", "versions", "device", "precision", "ranks", "launch", "lists"}
    assert config["ranks"] == 1 and config["launch"] is None
    line = train_flags(sop_tree, run_dir, loss_name=loss)
    assert config["flags"].keys() == parse(line, TRAIN_ELEM, "").values.keys()
    assert config["flags"]["loss_name"] == loss and config["flags"]["pooling"] == "avg"
    packages = {"torch", "torchvision", "timm", "numpy", "opencv", "simplejpeg"}
    assert config["versions"].keys() == {"python", "git", *packages} and config["versions"]["opencv"] == cv2.__version__
    for split, name in (("train", "Ebay_train.txt"), ("test", "Ebay_test.txt")):
        digest = hashlib.sha256((sop_tree / name).read_bytes()).hexdigest()
        facts = {"file": str(sop_tree / name), "sha256": digest, "images": 30, "labels": 10}
        assert config["lists"][split] == facts


def test_metrics_result_and_best_agree(elem_runs):
    run_dir = elem_runs["softmax"][0]
    lines, result = read_metrics(run_dir), read_json(run_dir / "result.json")
    trained = [line for line in lines if line["group"] == "train"]
    tested = [line for line in lines if line["group"] == "test"]
    assert [line["step"] for line in trained] == [1, 2, 3] and [line["step"] for line in tested] == [2, 3]
    assert trained[0].keys() >= {"lr", "loss", "acc1", "acc5", "time", "images_per_second"}
    assert trained[0]["images_per_second"] == about(6 / trained[0]["time"], 2)
    assert result["recall"] == {k: tested[-1][f"recall@{k}"] for k in ("1", "5", "10")}
    assert result["best"]["recall"]["1"] == max(line["recall@1"] for line in tested)
    assert result["best"]["chosen_on"] == "the test list Ebay_test.txt" == result["tested_on"]
    assert result["step"] == 3 and result["images"] == 30 and result["seconds"]["train"] > 0
    best = torch.load(run_dir / "best.pt", weights_only=True)
    assert best["step"] == result["best"]["step"]


def test_tensorboard_holds_the_curves(elem_runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = elem_runs["softmax"][0]
    board = EventAccumulator(str(run_dir)).Reload()
    assert set(board.Tags()["scalars"]) >= {"train/loss", "train/lr", "train/images_per_second", "test/recall@1"}
    losses = [line["loss"] for line in read_metrics(run_dir) if line["group"] == "train"]
    assert [event.value for event in board.Scalars("train/loss")] == about(losses, 1, torch.float32)


@pytest.mark.parametrize("loss", PAIR)
def test_pair_run_from_elem_run(pair_runs, elem_runs, loss):
    run_dir, printed = pair_runs[loss]
    source = str(elem_runs["softmax"][0])
    assert f"{source}: not used: loss.weight, loss.bias\n" in printed
    # One line has them all.
    (taken,) = [line for line in printed.splitlines() if line.endswith(f" taken from {source}")]
    for flag in ("model=Tiny", "image_shape=3,32,32", "resize_short_size=0", "embedding_size=0", "pooling=avg"):
        assert f" --{flag} " in taken
    flags = read_json(run_dir / "config.json")["flags"]
    assert flags["model"] == "Tiny" and flags["image_shape"] == [3, 32, 32]
    last = [line for line in read_metrics(run_dir) if line["group"] == "train"][-1]
    assert {"loss", "active_share", "recall"} <= last.keys() and 0 <= last["recall"] <= 1
    assert re.search(rf"trainbatch 3, lr 0.0001, loss {NUMBER}, .*recall {NUMBER}, time {NUMBER} sec$", printed, re.M)
    assert read_json(run_dir / "result.json")["flags"]["pretrained_model"] == source


def test_pair_starts_from_the_elem_weights(elem_runs, sop_tree, tmp_path):
    source = elem_runs["arcmargin"][0]
    still = {"lr": 1e-20, "freeze_bn": True, "total_iter_num": 1, "model": None, "image_shape": None}
    run("train_pair", train_flags(sop_tree, tmp_path / "run", pretrained_model=source, **still))
    files = (source / "last.pt", tmp_path / "run" / "last.pt")
    before, after = (torch.load(file, weights_only=True)["model"] for file in files)
    assert before.keys() == after.keys()
    for name in before:
        assert_within(after[name], before[name], 1e-20 * 1e6)  # the rate times more than any slope


def test_flag_on_the_line_wins_over_the_elem_run(elem_runs, sop_tree, tmp_path):
    source = elem_runs["arcmargin"][0]
    own = {"pretrained_model": source, "pooling": "max", "embedding_size": 4, "model": None, "image_shape": None}
    printed = run("train_pair", train_flags(sop_tree, tmp_path / "run", **own))
    assert f"{source}: starts afresh: head.weight, head.bias\n" in printed
    assert "--pooling=" not in printed and "--embedding_size=" not in printed  # nothing is taken from the run
    assert f"{source}: note: --pooling is max, but '{source}/last.pt' was trained with avg\n" in printed
    facts = {"model": "Tiny", "embedding_size": 4, "pooling": "max"}
    assert read_json(tmp_path / "run" / "result.json")["model"] == facts


def test_eval_repeats_the_figure_of_training(elem_runs, sop_tree, record_property):
    run_dir = elem_runs["softmax"][0]
    printed = run("eval", as_line({"data_dir": sop_tree, "pretrained_model": run_dir, **CPU}))
    result = read_json(run_dir / "eval" / "result.json")
    assert result["recall"] == read_json(run_dir / "result.json")["recall"]
    assert result["images"] == 30 and result["queries_without_positive"] == 0
    assert re.search(rf"^recall@10 +{100 * result['recall']['10']:.2f} ", printed, re.M)
    assert printed.endswith(f"\nEnd test 30, test_recall {result['recall']['1']:.5f}\n")
    record_property("printed", printed.splitlines()[-1])


def test_eval_embeddings_and_picture(pair_runs, sop_tree, tmp_path):
    outputs = {"save_embeddings": tmp_path / "a" / "x.npz", "picture": tmp_path / "b" / "x.png", "output_dir": tmp_path}
    source = {"data_dir": sop_tree, "pretrained_model": pair_runs["eml"][0]}
    printed = run("eval", as_line({**source, **outputs, "picture_queries": 3, **CPU}))
    saved = np.load(tmp_path / "a" / "x.npz")
    assert saved["embeddings"].shape == (30, 8) and saved["labels"].tolist() == sorted(3 * list(range(11, 21)))
    assert all(Path(path).is_file() for path in saved["paths"])
    for k, value in read_json(tmp_path / "result.json")["recall"].items():
        assert value == recall(saved["embeddings"].tolist(), saved["labels"].tolist(), int(k))
    height, width, _ = cv2.imread(str(tmp_path / "b" / "x.png")).shape
    assert width > 6 * 96 and height > 3 * 96
    assert all(str(outputs[name]) in printed for name in ("save_embeddings", "picture"))


@pytest.mark.parametrize("kind", ["untrained", "state dict", "foreign state dict"])
def test_eval_without_a_run(elem_runs, sop_tree, tmp_path, kind):
    weights = torch.load(elem_runs["softmax"][0] / "last.pt", weights_only=True)["model"]
    if kind == "foreign state dict":
        weights = {name.replace("backbone.", "module."): value for name, value in weights.items()}
    torch.save(weights, tmp_path / "weights.pt")
    model = {"model": "Tiny", "image_shape": "3,32,32"}
    source = {} if kind == "untrained" else {"pretrained_model": tmp_path / "weights.pt"}
    run("eval", as_line({"data_dir": sop_tree, "output_dir": tmp_path / "out", **model, **source, **CPU}))
    figures = read_json(tmp_path / "out" / "result.json")["recall"]
    trained = read_json(elem_runs["softmax"][0] / "result.json")["recall"]
    assert (figures == trained) == (kind != "untrained")


def test_infer_list_is_evals_embedding(pair_runs, sop_tree, tmp_path):
    source = pair_runs["npairs"][0]
    mine = embeddings_of(sop_tree, source, tmp_path)
    outputs = {"output_dir": tmp_path, "save_embeddings": tmp_path / "y.npz", "batch_size": 7}
    run("eval", as_line({"data_dir": sop_tree, "pretrained_model": source, **CPU, **outputs}))
    theirs = np.load(tmp_path / "y.npz")
    assert mine["paths"].tolist() == theirs["paths"].tolist() and mine["labels"].tolist() == theirs["labels"].tolist()
    assert_within(mine["embeddings"], theirs["embeddings"], batch_error(source, mine["paths"]))


def test_infer_folder_and_files(pair_runs, sop_tree, tmp_path):
    source = pair_runs["triplet"][0]
    folder = next(path for path in sorted(sop_tree.iterdir()) if path.is_dir())
    pictures = sorted(str(path) for path in folder.iterdir())
    whole = embeddings_of(sop_tree, source, tmp_path, "--input", folder, batch_size=4)
    assert whole["paths"].tolist() == pictures and "labels" not in whole
    some = embeddings_of(sop_tree, source, tmp_path, "--input", *pictures[2::-1])
    assert some["paths"].tolist() == pictures[2::-1]
    assert_within(some["embeddings"], whole["embeddings"][2::-1], batch_error(source, some["paths"]))


def test_infer_prints_five_numbers_and_writes_json(pair_runs, sop_tree, tmp_path, record_property):
    line = as_line({"data_dir": sop_tree, "pretrained_model": pair_runs["quadruplet"][0], **CPU})
    said = run("infer", [*line, f"--output={tmp_path / 'x.json'}"])
    assert "-feature" not in said and said.endswith(f"30 images, 8 numbers each, written: {tmp_path / 'x.json'}\n")
    printed = run("infer", line)
    table = read_json(tmp_path / "x.json")
    assert len(table) == 30
    for i, embedding in enumerate(table.values()):
        words = re.search(rf"^Test-{i}-feature: \[(.*)\]$", printed, re.M).group(1).split(", ")
        assert len(embedding) == 8
        assert_within([float(word) for word in words], embedding[:5], decimal_error(6))
    record_property("printed", re.search(r"^Test-0-feature: .*$", printed, re.M)[0])


# What a class's score is in cosines to its weights (of several centres, the nearest, or weighted by a softmax).
COSINE_SCALES = {
    "arcmargin": 80,
    "cosface": 64,
    "mlp_arcmargin": 80,
    "norm_softmax": 20,
    "proxy_anchor": 32,
    "proxy_nca": 2,
    "soft_triple": 20,
    "subcenter_arcmargin": 80,
}


@pytest.mark.parametrize("loss", ELEM)
def test_infer_scores(elem_runs, sop_tree, tmp_path, loss):
    run_dir = elem_runs[loss][0]
    output = tmp_path / "x.npz"
    line = as_line({"data_dir": sop_tree, "pretrained_model": run_dir, "test_list": "Ebay_train.txt", **CPU})
    printed = run("infer", [*line, "--scores", f"--output={output}"])
    embeddings = np.load(output)["embeddings"].astype(np.float64)
    loss_state = {name: value.double().numpy() for name, value in torch.load(run_dir / "last.pt")["loss"].items()}
    weight = loss_state["weight"]
    if "bias" in loss_state:
        logits = embeddings @ weight.T + loss_state["bias"]
        size = (np.abs(embeddings) @ np.abs(weight).T + np.abs(loss_state["bias"])).max()
    else:
        size = COSINE_SCALES[loss]
        rows = embeddings
        if loss == "mlp_arcmargin":  # two layers, unless others are asked for
            rows = np.maximum(rows @ loss_state["layers.0.weight"].T + loss_state["layers.0.bias"], 0)
            rows = rows @ loss_state["layers.2.weight"].T + loss_state["layers.2.bias"]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = rows @ (weight / np.linalg.norm(weight, axis=-1, keepdims=True)).swapaxes(-1, -2)
        if weight.ndim == 3:  # (C, rows, K)
            if loss == "soft_triple":
                shares = np.exp(10 * (cosines - cosines.max(2, keepdims=True)))
                cosines = (shares * cosines).sum(2) / shares.sum(2)
            else:
                cosines = cosines.max(2)
            cosines = cosines.T
        logits = size * cosines
    powers = np.exp(logits - logits.max(1, keepdims=True))
    chances = powers / powers.sum(1, keepdims=True)
    # A logit is off by e = gamma(n) size, and a chance p by 2 e p (1 - p) and the sum's rounding.
    errors = 2 * gamma(8 + 20, torch.float32) * size * chances * (1 - chances)
    errors += decimal_error(4) + gamma(20, torch.float32)
    for i, row in enumerate(chances):
        words = re.search(rf"^Test-{i}-scores: (.*)$", printed, re.M).group(1).split(", ")
        pairs = [(int(word.split()[0]), float(word.split()[1])) for word in words]
        assert_within([value for _, value in pairs], sorted(row)[:-6:-1], errors[i].max())
        for label, value in pairs:  # class c stands for label c + 1
            assert_within(value, row[label - 1], errors[i, label - 1])


def test_same_seed_same_result_and_another_seed_another(sop_tree, tmp_path):
    runs = {name: tmp_path / name for name in ("first", "second", "other")}
    for name, run_dir in runs.items():
        run("train_elem", train_flags(sop_tree, run_dir, seed=int(name == "other")))
    first, second, other = (comparable(run_dir) for run_dir in runs.values())
    assert first == second
    assert first["train"]["loss"] != other["train"]["loss"]


def test_config_replays_a_run(sop_tree, tmp_path):
    own = {"lr_steps": "1,2", "augment": "flip,crop,erasing", "crop_scale": "0.5,1", "arc_easy_margin": True, "seed": 3}
    run("train_elem", train_flags(sop_tree, tmp_path / "a", loss_name="arcmargin", freeze_bn=1, **own))
    replay = f"--config={tmp_path / 'a' / 'config.json'}"
    run("train_elem", [replay, f"--model_save_dir={tmp_path / 'b'}"])
    run("train_elem", [replay, f"--model_save_dir={tmp_path / 'c'}", "--lr=0.5"])
    assert comparable(tmp_path / "a") == comparable(tmp_path / "b")
    assert comparable(tmp_path / "a")["train"]["loss"] != comparable(tmp_path / "c")["train"]["loss"]
    flags = [read_json(tmp_path / name / "config.json")["flags"] for name in "abc"]
    for other, changed in zip(flags[1:], ({"config", "model_save_dir"}, {"config", "model_save_dir", "lr"})):
        assert {name for name in other if other[name] != flags[0][name]} == changed


def test_config_with_another_loss_on_the_line(elem_runs, tmp_path):
    line = [f"--config={elem_runs['arcmargin'][0] / 'config.json'}", f"--model_save_dir={tmp_path / 'b'}"]
    run("train_elem", [*line, "--loss_name=softmax"])
    assert comparable(tmp_path / "b") == comparable(elem_runs["softmax"][0])


def test_config_of_a_training_run_in_eval(elem_runs, sop_tree, tmp_path):
    run_dir = elem_runs["softmax"][0]
    line = [f"--config={run_dir / 'config.json'}", f"--pretrained_model={run_dir}", f"--output_dir={tmp_path}"]
    run("eval", line)
    assert read_json(tmp_path / "result.json")["recall"] == read_json(run_dir / "result.json")["recall"]


def test_val_classes_tests_on_held_out_train_labels(sop_tree, tmp_path):
    run("train_elem", train_flags(sop_tree, tmp_path / "run", val_classes=4))
    result, config = (read_json(tmp_path / "run" / name) for name in ("result.json", "config.json"))
    assert result["tested_on"] == "4 train labels held out" == result["best"]["chosen_on"]
    assert result["images"] == 12
    assert [config["lists"][split]["labels"] for split in ("train", "test")] == [6, 4]
    classes = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["classes"].tolist()
    assert len(classes) == 6 and set(classes) < set(range(1, 11))


def test_overwrite_leaves_nothing_of_the_old_run(sop_tree, tmp_path):
    run("train_elem", train_flags(sop_tree, tmp_path / "run", save_iter_step=1))
    (tmp_path / "run" / "note.txt").write_text("mine")
    run("train_elem", train_flags(sop_tree, tmp_path / "run", total_iter_num=1, overwrite=True))
    assert not list((tmp_path / "run").glob("step_[23].pt"))
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 1]
    assert (tmp_path / "run" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "flags, rates",
    [
        ({"lr_strategy": "constant"}, [0.4, 0.4, 0.4]),
        ({"lr_strategy": "piecewise_decay", "lr_steps": "1,2"}, [0.4, 0.04, 0.004]),
        ({"lr_strategy": "cosine"}, [0.4, 0.3, 0.1]),
        ({"lr_strategy": "constant", "warmup_steps": 2}, [0.2, 0.4, 0.4]),
    ],
)
def test_rates_reach_the_log(sop_tree, tmp_path, flags, rates):
    run("train_elem", train_flags(sop_tree, tmp_path / "run", lr=0.4, **flags))
    shown = [line["lr"] for line in read_metrics(tmp_path / "run") if line["group"] == "train"]
    assert shown == about(rates, 20)


@pytest.mark.parametrize(
    "flags",
    [
        {"optimiser": "adamw", "weight_decay": 0.05},
        {"momentum": 0.5},
        {"weight_decay": 0.5},
        {"clip_norm": 0.01},
        {"class_lr": 1.0},
        {"class_lr": 0.0},
        {"freeze_bn": True},
        {"freeze_stages": 1},
        {"pooling": "gem"},
        {"pooling": "avg+max"},
        {"embedding_size": 5},
        {"resize_short_size": 40, "augment": "none"},
        {"augment": "crop,flip,affine,colour,grey,randaugment,erasing"},
        {"crop_scale": "0.9,1"},
        {"precision": "bf16"},
        {"test_list": "Ebay_train.txt"},
    ],
    ids=lambda flags: "-".join(map(str, itertools.chain(*flags.items()))),
)
def test_flag_reaches_the_run(sop_tree, tmp_path, flags):
    """The last step's loss or the test differ from a run without the flag."""
    plain = {"precision": "fp32", "lr": 0.05, "total_iter_num": 4}
    assert outcome(sop_tree, tmp_path / "own", **{**plain, **flags}) != outcome(sop_tree, tmp_path / "plain", **plain)


def test_csv_is_as_good_as_sop_lists(sop_tree, tmp_path):
    lists = {"train_list": "shapes.csv", "test_list": "shapes.csv"}
    assert outcome(sop_tree, tmp_path / "csv", **lists) == outcome(sop_tree, tmp_path / "sop")


def outcome(data_dir, run_dir, **flags):
    """What a softmax run ends with: the last step's loss and the recalls."""
    run("train_elem", train_flags(data_dir, run_dir, **flags))
    result = read_json(run_dir / "result.json")
    assert np.isfinite(result["train"]["loss"])
    return result["train"]["loss"], result["recall"]
