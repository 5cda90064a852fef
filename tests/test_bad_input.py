"""A user's mistake: exit status 2, one sentence on stderr that names the value and what is allowed, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import PROGRAMS, SCRIPTS, as_line, run, train_flags

from config.script import run_script

ROOT = Path(__file__).parents[1]
TRAINING = ("train_elem", "train_pair")


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def finished_pair_run(sop_tree, tmp_path_factory):
    """The folder of a stage 2 run of three steps. Read only."""
    run_dir = tmp_path_factory.mktemp("run") / "triplet"
    run("train_pair", train_flags(sop_tree, run_dir))
    return run_dir


@pytest.fixture
def no_network(monkeypatch):
    """Nothing may be built: what the flags alone tell is refused before."""

    def refuse(*args):
        raise AssertionError("a network is built")

    monkeypatch.setattr("embeddings.encoder.open_model", refuse)


@pytest.fixture
def sentence(monkeypatch, capsys):
    """Call a script with a mistaken line; returns its sentence, of `lines` lines, once status and form are right."""

    def call(script, line, lines=1):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, line)])
        with pytest.raises(SystemExit) as end:
            run_script(PROGRAMS[script].main)
        assert end.value.code == 2
        return one_sentence(script, capsys.readouterr().err, lines)

    return call


def one_sentence(script, stderr, lines=1):
    assert stderr.startswith(f"{script}.py: ") and stderr.endswith("\n") and stderr.count("\n") == lines, stderr
    return stderr.removeprefix(f"{script}.py: ").rstrip("\n")


def line_of(script, data_dir, output, /, **flags):
    """A line that would work but for `flags`, writing to `output`."""
    if script in TRAINING:
        return train_flags(data_dir, output, **flags)
    result = {"eval": {"output_dir": output}, "infer": {"output": output / "x.npz"}}[script]
    model = {"model": "Tiny", "image_shape": "3,32,32", "use_gpu": False, "num_workers": 0}
    return as_line({"data_dir": data_dir, **model, **result, **flags})


def contents(folder):
    """{file: (its change time, its size)} of everything in `folder`."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(Path(folder).rglob("*"))}


MISTAKES = [
    # every script
    ("all", {"data_dir": "/nowhere/sop"}, "'/nowhere/sop' is not a folder"),
    ("all", {"test_list": "Ebay_tset.txt"}, "no list 'Ebay_tset.txt'"),
    ("all", {"model": "ResNet5"}, "unknown model 'ResNet5'", "ResNet50", "Did you mean 'ResNet"),
    ("all", {"pooling": "gen"}, "--pooling", "'gen' is not one of avg, max, gem, avg+max, ", "Did you mean 'gem'?"),
    ("all", {"image_shape": "224,224"}, "--image_shape", "'224,224' is not 3,height,width"),
    ("all", {"image_shape": "1,32,32"}, "'1,32,32' is not 3,height,width"),
    ("all", {"resize_short_size": 16}, "resize_short_size is 16", "32x32"),
    ("all", {"resize_short_size": -1}, "-1"),
    ("all", {"embedding_size": -1}, "-1"),
    ("all", {"embedding_size": "many"}, "--embedding_size", "'many'"),
    ("all", {"num_workers": -1}, "--num_workers", "-1"),
    ("all", {"pretrained_model": "/nowhere/run"}, "'/nowhere/run'", "a run folder, a weights file or 'imagenet'"),
    ("all", {"precision": "fp64"}, "'fp64' is not one of auto, fp32, bf16, fp16"),
    ("all", {"precision": "fp16"}, "fp16 needs an accelerator"),
    ("all", {"use_gpu": "yes"}, "'yes' is not one of True, False, 1, 0"),
    ("all", {"modle": "ResNet50"}, "unknown flag '--modle=ResNet50'", "Did you mean '--model'?"),
    ("all", {"config": "/nowhere/config.json"}, "'/nowhere/config.json'"),
    ("all", {"num_workers": 5000}, "--num_workers", "'5000' is not an integer from 0 to 1024, or auto"),
    ("all", {"embedding_size": 10**15}, "--embedding_size", "is not an integer from 0 to 1000000"),
    ("all", {"image_shape": "3,3,3"}, "Tiny cannot embed 1 at a time of 3x3 pixels", "Kernel size"),
    ("all", {"image_shape": "3,99999999,99999999"}, "Tiny cannot embed 1 at a time of 99999999x99999999 pixels"),
    # training scripts
    ("train", {"train_list": "train.txt"}, "no list 'train.txt'"),
    ("train", {"ema": 1}, "--ema: '1' is not a number of at least 0 and below 1"),
    ("train", {"loss_name": "softmx"}, "unknown loss 'softmx'", "Did you mean 'softmax'?"),
    ("train", {"loss_name": "tripelt"}, "unknown loss 'tripelt'", "Did you mean 'triplet'?"),
    (
        "train",
        {"augment": "crop,colur"},
        "'colur' is not one of crop, flip, affine",
        "Did you mean 'colour'?",
        "erasing",
    ),
    ("train", {"crop_scale": "0.5"}, "'0.5' is not low,high"),
    ("train", {"crop_scale": "0.5,0.2"}, "'0.5,0.2' is not low,high"),
    ("train", {"train_batch_size": 0}, "'0' is not an integer above 0"),
    ("train", {"total_iter_num": -3}, "'-3' is not an integer above 0"),
    ("train", {"lr_strategy": "cosin"}, "'cosin' is not one of", "Did you mean 'cosine'?"),
    ("train", {"lr_steps": "1;2"}, "'1;2' is not a list of integers"),
    ("train", {"optimiser": "adamv"}, "'adamv' is not one of momentum, adam, adamw, sgd"),
    ("train", {"lr": "fast"}, "--lr", "'fast'"),
    ("train", {"lr": -0.1}, "lr", "-0.1"),
    ("train", {"lr": 0}, "lr", "0"),
    ("train", {"momentum": -0.9}, "momentum", "-0.9"),
    ("train", {"weight_decay": -1e-4}, "weight_decay", "-0.0001"),
    ("train", {"clip_norm": -1}, "clip_norm", "-1"),
    ("train", {"warmup_steps": -5}, "warmup_steps", "-5"),
    ("train", {"seed": -1}, "seed", "-1"),
    ("train", {"val_classes": 10}, "val_classes is 10; with 10 train labels it can be 1 to 9"),
    ("train", {"val_classes": -1}, "val_classes", "-1"),
    ("train", {"freeze_stages": 2}, "freeze_stages is 2; Tiny has 1 stage"),
    ("train", {"freeze_stages": -1}, "freeze_stages", "-1"),
    ("train", {"checkpoint": "/nowhere/run"}, "/nowhere"),
    ("train", {"seed": 2**64}, "seed", f"'{2**64}' is not an integer from 0 to {2**63 - 1}"),
    ("train", {"total_iter_num": 0}, "total_iter_num", "'0' is not an integer above 0"),
    ("train", {"display_iter_step": 0}, "display_iter_step", "'0' is not an integer above 0"),
    ("train", {"test_iter_step": 0}, "test_iter_step", "'0' is not an integer above 0"),
    ("train", {"save_iter_step": 0}, "save_iter_step", "'0' is not an integer above 0"),
    ("train", {"test_batch_size": 0}, "test_batch_size", "'0' is not an integer above 0"),
    ("train", {"lr_steps": "5,-5"}, "lr_steps", "'5,-5' is not a list of steps from 0 on"),
    ("train", {"lr": "nan"}, "'nan' is not a number above 0"),
    ("train", {"cache_kind": "decode"}, "'decode' is not one of encoded, decoded. Did you mean 'decoded'?"),
    ("train", {"cache_kind": "decoded", "decode": "opencv"}, "--cache_kind=decoded keeps whole images"),
    ("train", {"cache_bytes": "2 big"}, "'2 big' is not a size such as 500MB or 2GB"),
    ("train", {"decode": "pil"}, "'pil' is not one of auto, exact, opencv, simplejpeg"),
    ("train", {"on_bad_image": "ski"}, "'ski' is not one of stop, skip. Did you mean 'skip'?"),
    ("train", {"model_save_dir": ""}, "--model_save_dir: it is empty; give a folder, or . for this one"),
    ("train", {"micro_batch": 7}, "micro_batch is 7, more than train_batch_size, 6; 0 is all of it"),
    ("train", {"micro_batch": -1}, "micro_batch", "'-1' is not an integer of at least 0"),
    ("train", {"micro_batch": 1, "model": "ResNet18"}, "ResNet18 cannot train on 1 at a time of 32x32 pixels"),
    ("train", {"micro_batch": 5, "model": "ResNet18"}, "ResNet18 cannot train on 1 at a time of 32x32 pixels"),
    # one of them
    ("train_elem", {"loss_name": "triplet"}, "triplet is a loss of train_pair.py", "train_elem.py has", "arcmargin"),
    ("train_pair", {"loss_name": "softmax"}, "softmax is a loss of train_elem.py", "triplet", "eml"),
    (
        "train_elem",
        {"arc_margin": 0.2},
        "unknown flag '--arc_margin=0.2'",
        "It is an option of arcmargin, mlp_arcmargin",
    ),
    ("train_pair", {"npairs_reg_lambda": 1}, "unknown flag '--npairs_reg_lambda=1'", "It is an option of npairs."),
    ("train_elem", {"loss_name": "arcmargin", "arc_margin": 4}, "arc_margin=4.0", "0 to 3.14"),
    ("train_elem", {"loss_name": "arcmargin", "arc_easy_margin": "no"}, "'no' is not one of True, False, 1, 0"),
    ("train_elem", {"train_batch_size": 1, "model": "ResNet18"}, "ResNet18 cannot train on 1 at a time", "32x32"),
    ("train_elem", {"loss_name": "arcmargin", "arc_scale": 0}, "arc_scale=0.0", "above 0"),
    ("train_elem", {"loss_name": "arcmargin", "arc_scale": "nan"}, "--arc_scale: 'nan' is not a finite number"),
    ("train_elem", {"chunk_classes": 0}, "chunk_classes=0 is neither auto nor a number of classes, 1 or more"),
    ("train_pair", {"loss_name": "eml", "feature_scale": 0}, "feature_scale=0.0", "above 0"),
    ("train_pair", {"loss_name": "npairs", "npairs_reg_lambda": -1}, "npairs_reg_lambda=-1.0"),
    ("train_pair", {"freeze_stages": 1}, "there is nothing to train"),
    ("train_pair", {"margin": -1}, "margin=-1.0"),
    ("train_pair", {"val_classes": 9}, "triplets need at least 2 labels, but the train list has 1"),
    ("train_elem", {"class_dim": 11318}, "class_dim is 11318", "10 labels"),
    ("train_elem", {"class_lr": -1}, "class_lr", "-1"),
    ("train_pair", {"class_dim": 10}, "unknown flag '--class_dim=10'"),
    ("train_elem", {"train_batch_size": 36}, "train_batch_size is 36, but the train list has only 30 images"),
    ("train_pair", {"train_batch_size": 93}, "needs 31 anchors", "only 30 images", "--train_batch_size=90 fits"),
    ("train_pair", {"train_batch_size": 8}, "8 is not divisible by 3", "--train_batch_size=6 fits"),
    (
        "train_pair",
        {"loss_name": "eml", "train_batch_size": 7},
        "7 is not divisible by samples_each_class 2",
        "--train_batch_size=6 fits",
    ),
    ("train_pair", {"loss_name": "eml", "samples_each_class": 4}, "6 is not divisible by samples_each_class 4"),
    ("train_pair", {"loss_name": "npairs", "samples_each_class": 1}, "samples_each_class is 1", "at least 2"),
    (
        "train_pair",
        {"loss_name": "quadruplet", "train_batch_size": 22},
        "needs 11 labels, but the train list has 10",
        "--train_batch_size=20 fits",
    ),
    ("train_pair", {"loss_name": "eml", "samples_each_class": 6}, "holds one label only"),
    ("train", {"sampler": "blance"}, "unknown sampler 'blance'", "Did you mean 'balance'?"),
    (
        "train",
        {"n_categories": 3},
        "unknown flag '--n_categories=3'",
        "It is an option of category_balance, category_pk",
    ),
    ("train", {"sampler": "neighbours", "nearest": 0}, "'0' is not an integer above 0"),
    ("train", {"sampler": "neighbours", "closeness": "mean"}, "Did you mean 'means'?"),
    ("train", {"sampler": "neighbours", "lookalike": 1.5}, "'1.5' is not a number from -1 to 1"),
    ("train_elem", {"sampler": "neighbours"}, "holds 3 labels, which is not divisible by nearest 4"),
    ("train_elem", {"sampler": "pk", "train_batch_size": 7}, "7 is not divisible by samples_each_class 2"),
    ("train_elem", {"sampler": "distinct_category_balance", "train_batch_size": 12}, "takes 3 labels of a category"),
    ("train_pair", {"loss_name": "triplet", "sampler": "pk"}, "takes triplets in order, which --sampler=pk does not"),
    ("train_pair", {"loss_name": "siamese", "sampler": "pk"}, "takes pairs in order, which --sampler=pk does not"),
    ("train_pair", {"loss_name": "eml", "sampler": "shuffled"}, "6 images of 10 labels may be all of different labels"),
    (
        "train_pair",
        {"loss_name": "eml", "sampler": "neighbours", "nearest": 3, "closeness": "weights"},
        "needs a run of train_elem.py as --pretrained_model, got None",
    ),
    (
        "train_pair",
        {"loss_name": "eml", "sampler": "neighbours", "nearest": 3, "closeness": "weights", "refresh_steps": 2},
        "those of an earlier run do not change; leave --refresh_steps out",
    ),
    ("eval", {"batch_size": 0}, "'0' is not an integer above 0"),
    ("eval", {"metrics": "recall@1,recal@5"}, "unknown metric 'recal@5'", "Did you mean 'recall@k'?"),
    ("eval", {"metrics": "precision@0"}, "k has to be 1 or more"),
    ("eval", {"definition": "olm"}, "'olm' is not one of standard, oml, pml. Did you mean 'oml'?"),
    ("eval", {"distance": "cosin"}, "'cosin' is not one of cosine, squared_euclidean. Did you mean 'cosine'?"),
    ("eval", {"fmr": "0.1,2"}, "'0.1,2' is not a list of numbers from 0 to 1"),
    ("eval", {"pcf": "half"}, "'half' is not a list of numbers from 0 to 1"),
    ("eval", {"search_memory_mb": 0}, "--search_memory_mb", "'0'"),
    ("eval", {"postprocess": "k_reciprocl"}, "'k_reciprocl' is not one of", "Did you mean 'k_reciprocal'?"),
    ("eval", {"postprocess": "k_reciprocal,k_reciprocal"}, "names one of them twice"),
    ("eval", {"postprocess": "constant_threshold", "threshold": "nan"}, "--threshold: 'nan' is not a finite number"),
    ("eval", {"k1": 4}, "unknown flag '--k1=4'", "It is an option of k_reciprocal."),
    ("eval", {"postprocess": "k_reciprocal", "k1": 0}, "k1=0"),
    ("eval", {"postprocess": "query_expansion", "distance": "squared_euclidean"}, "query_expansion goes by cosine"),
    ("eval", {"embeddings": "/nowhere/x.npz"}, "no file '/nowhere/x.npz'"),
    ("eval", {"embeddings": "x.npz", "pretrained_model": "imagenet"}, "leave --pretrained_model out"),
    ("eval", {"top": 0}, "'0' is not an integer above 0"),
    ("eval", {"save_results": "/nowhere/x.csv"}, "it has to end in .npz or .json"),
    ("eval", {"runtime": "openvino", "use_gpu": True}, "--runtime=openvino embeds on the CPU; leave --use_gpu out"),
    (
        "infer",
        {"runtime": "openvion"},
        "'openvion' is not one of auto, torch, openvino, onnx. Did you mean 'openvino'?",
    ),
    ("infer", {"input": "/nowhere/cat.jpg"}, "no file or folder '/nowhere/cat.jpg'"),
    ("infer", {"input": "/nowhere/list.txt"}, "no list '/nowhere/list.txt'"),
]
GROUPS = {"all": tuple(SCRIPTS), "train": TRAINING}
CASES = [
    pytest.param(script, flags, words, id=f"{script} {' '.join(f'{k}={v}' for k, v in flags.items())}")
    for scripts, flags, *words in MISTAKES
    for script in GROUPS.get(scripts, (scripts,))
]


@pytest.mark.parametrize("script, flags, words", CASES)
def test_mistaken_flag(sentence, sop_tree, tmp_path, script, flags, words):
    if script == "train_pair" and flags.get("loss_name") == "softmx":
        words = ["unknown loss 'softmx'"]
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", **flags))
    for word in words:
        assert word in said, said
    assert not (tmp_path / "out").exists()


def test_in_a_process(sop_tree, tmp_path):
    """What run_script promises holds in the shell too."""
    line = train_flags(sop_tree, tmp_path / "out", model="ResNet18", loss_name="arcmagrin")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "train_elem.py", *line], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 2 and process.stdout == ""
    assert "unknown loss 'arcmagrin'" in one_sentence("train_elem", process.stderr)
    assert "Did you mean 'arcmargin'?" in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("script", SCRIPTS)
def test_gpu_wanted_where_there_is_none(sentence, sop_tree, tmp_path, script):
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", use_gpu=True))
    assert "use_gpu is True, but torch sees no accelerator" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line, words",
    [
        ("31 4 disc_final/x.jpg", ["expected 4 columns (image_id class_id super_class_id path), got 3"]),
        ("31 4 1 disc_final/none.jpg", ["no image", "disc_final/none.jpg"]),
    ],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_list_line(sentence, sop_copy, tmp_path, script, line, words):
    name = "Ebay_train.txt" if script in TRAINING else "Ebay_test.txt"
    with open(sop_copy / name, "a") as file:
        file.write(line + "\n")
    said = sentence(script, line_of(script, sop_copy, tmp_path / "out"))
    assert said.startswith(f"{sop_copy / name}:32: ")
    assert all(word in said for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("script", ["train_elem", "infer"])
def test_file_that_is_no_image(sentence, sop_copy, tmp_path, script, workers):
    """Found before the work begins, whoever would have loaded it."""
    (sop_copy / "cross_final" / "11_0.jpg").write_text("not an image")
    said = sentence(script, line_of(script, sop_copy, tmp_path / "out", num_workers=workers), lines=2)
    assert said.startswith(f"{sop_copy / 'Ebay_test.txt'}:2: '")
    assert "11_0.jpg' is not an image that OpenCV can decode (12 bytes)" in said
    assert said.splitlines()[1].startswith("a list without such: python reader.py doctor ")
    assert not (tmp_path / "out").exists()


def test_loss_that_is_not_finite(sentence, sop_tree, tmp_path):
    said = sentence("train_elem", train_flags(sop_tree, tmp_path / "out", lr=1e30))
    assert "the loss is" in said and "at step" in said and "smaller --lr" in said
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize(
    "script, flag",
    [
        ("train_elem", "model_save_dir"),
        ("train_pair", "model_save_dir"),
        ("eval", "output_dir"),
        ("eval", "save_embeddings"),
        ("eval", "picture"),
        ("infer", "output"),
    ],
)
def test_unwritable_output(sentence, no_network, sop_tree, tmp_path, script, flag):
    """A folder cannot be made below a file, not even by root; found before the work, so nothing else is written."""
    (tmp_path / "file").write_text("a file")
    path = tmp_path / "file" / {"save_embeddings": "x.npz", "picture": "x.png", "output": "x.npz"}.get(flag, "run")
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", **{flag: path}))
    assert "cannot write" in said and str(tmp_path / "file") in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "script, flag, name",
    [("infer", "output", "x.csv"), ("eval", "save_embeddings", "x.npy"), ("eval", "picture", "x.pdf")],
)
def test_output_of_another_kind(sentence, no_network, sop_tree, tmp_path, script, flag, name):
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", **{flag: tmp_path / "out" / name}))
    assert name in said and {"picture": ".png"}.get(flag, ".npz") in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, package, expected",
    [
        ({"report": "r.html", "projection": "umap"}, "umap", "pip install umap-learn"),
        ({"attention": "a.png", "runtime": "openvino"}, "none", "which --runtime=openvino hides"),
    ],
)
def test_what_cannot_be_made_is_refused_before_a_network_is_built(
    sentence, no_network, sop_tree, tmp_path, monkeypatch, flags, package, expected
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    assert expected in sentence("eval", line_of("eval", sop_tree, tmp_path / "out", **flags))
    assert not list(tmp_path.iterdir())


def test_find_refuses_an_answer_file_before_it_opens_the_index(sentence, tmp_path):
    line = ["find", tmp_path / "none.index", "--input", tmp_path, f"--output={tmp_path / 'hits.csv'}"]
    assert "hits.csv': it has to end in .json or .png" in sentence("search", line)


def test_parquet_without_its_package_says_what_to_install(sentence, no_network, sop_tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = sentence("infer", line_of("infer", sop_tree, tmp_path, output=tmp_path / "x.parquet"))
    assert said.endswith("x.parquet needs the package pyarrow: pip install -r requirements/shards.txt")


def test_folder_without_images(sentence, sop_tree, tmp_path):
    (tmp_path / "photos").mkdir()
    said = sentence("infer", line_of("infer", sop_tree, tmp_path / "out", input=tmp_path / "photos"))
    assert f"no image in {tmp_path / 'photos'}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", TRAINING)
def test_existing_run_is_kept(sentence, sop_tree, tmp_path, script):
    run("train_elem", train_flags(sop_tree, tmp_path / "run", total_iter_num=1))
    before = contents(tmp_path / "run")
    said = sentence(script, train_flags(sop_tree, tmp_path / "run"))
    assert f"{str(tmp_path / 'run')!r} already holds a run" in said
    assert f"--checkpoint={tmp_path / 'run'}" in said and "--overwrite=True" in said
    assert contents(tmp_path / "run") == before


def test_broken_run_is_not_cleared_by_a_mistake(sentence, sop_tree, finished_run):
    """--overwrite=True removes the old run only once everything else is right."""
    before = contents(finished_run)
    said = sentence("train_elem", train_flags(sop_tree, finished_run, overwrite=True, class_dim=7))
    assert "class_dim is 7" in said
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"total_iter_num": 3}, ["last.pt is at step 3 already; --total_iter_num=3 asks for no more"]),
        ({"total_iter_num": 6, "pooling": "max"}, ["last.pt holds the model", "'pooling': 'avg'", "'pooling': 'max'"]),
        ({"total_iter_num": 6, "model": "ResNet18"}, ["last.pt holds the model", "Tiny", "ResNet18"]),
        ({"total_iter_num": 6, "loss_name": "arcmargin"}, ["last.pt", "another loss"]),
        ({"total_iter_num": 6, "optimiser": "adamw"}, ["last.pt", "optimiser"]),
        ({"total_iter_num": 6, "val_classes": 3}, ["last.pt", "10", "7"]),
    ],
)
def test_checkpoint_that_does_not_fit(sentence, finished_run, flags, words):
    before = contents(finished_run)
    changed = {"allow_changed": ",".join(flags)}
    said = sentence("train_elem", as_line({"checkpoint": finished_run, **flags, **changed}))
    assert all(word in said for word in words), said
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"lr": 0.5}, "--lr is 0.5, but the run that goes on has 0.01; leave it out, or give --allow_changed=lr"),
        ({"total_iter_num": 9, "allow_changed": "lr"}, "--total_iter_num is 9, but the run that goes on has 3"),
        ({"loss_name": "arcmargin"}, "--loss_name is arcmargin, but the run that goes on has softmax"),
        ({"allow_changed": "lear"}, "allow_changed names 'lear', which is no flag of the run"),
    ],
)
def test_flags_that_contradict_the_run(sentence, finished_run, flags, words):
    before = contents(finished_run)
    assert words in sentence("train_elem", as_line({"checkpoint": finished_run, **flags}))
    assert contents(finished_run) == before


def test_a_recipe_that_is_given_again(sentence, sop_tree, tmp_path):
    """With the checkpoint: what the line and the recipe say as before goes on, what either says otherwise is noticed."""
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    lines = train_flags(sop_tree, folder, loss_name="arcmargin", arc_margin=0.3, total_iter_num=2)
    recipe.write_text("".join(f"{line.removeprefix('--').replace('=', ': ', 1)}\n" for line in lines))
    line = [f"--config={recipe}", "lr=0.02"]
    run("train_elem", line)
    again = [*line, f"--checkpoint={folder}"]
    before = contents(folder)
    assert "is at step 2 already; --total_iter_num=2 asks for no more" in sentence("train_elem", again)
    for words, part in (
        ([f"--config={recipe}", "lr=0.03"], "--lr is 0.03, but the run that goes on has 0.02"),
        ([f"--config={recipe}", "lr=0.02", "arc_margin=0.2"], "--arc_margin is 0.2, but the run that goes on has 0.3"),
    ):
        assert part in sentence("train_elem", [*words, f"--checkpoint={folder}"])
    recipe.write_text(recipe.read_text().replace("train_batch_size: 6", "train_batch_size: 9"))
    number = recipe.read_text().splitlines().index("train_batch_size: 9") + 1
    said = sentence("train_elem", again)
    assert f"recipe.yaml:{number}: train_batch_size is 9, but the run that goes on has 6" in said
    assert contents(folder) == before


def test_another_list_than_the_runs(sentence, sop_copy, tmp_path):
    run("train_elem", train_flags(sop_copy, tmp_path / "run", total_iter_num=1))
    with open(sop_copy / "Ebay_test.txt", "a") as file:
        file.write("99 20 1 disc_final/4_0.jpg\n")
    more = ["--total_iter_num=2", "--allow_changed=total_iter_num"]
    said = sentence("train_elem", [f"--checkpoint={tmp_path / 'run'}", *more])
    assert "the test list" in said and "is not what it was when the run began" in said


def test_checkpoint_of_the_other_stage(sentence, finished_run):
    before = contents(finished_run)
    said = sentence(
        "train_pair", as_line({"checkpoint": finished_run, "total_iter_num": 6, "allow_changed": "total_iter_num"})
    )
    assert "softmax is a loss of train_elem.py" in said
    assert contents(finished_run) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_weights_of_another_architecture(sentence, sop_tree, finished_run, tmp_path, script):
    other = {"model": "ResNet18", "pretrained_model": finished_run}
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", **other))
    assert "last.pt' holds a Tiny, but the model is ResNet18: give --model=Tiny" in said
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    said = sentence(script, line_of(script, sop_tree, tmp_path / "out", pretrained_model=tmp_path / "weights.pt"))
    assert "weights.pt' does not hold a Tiny" in said and "expected (8, 3, 5, 5), got (1,)" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["text", "list", "tensor", "empty"])
@pytest.mark.parametrize("flag", ["pretrained_model", "checkpoint"])
def test_file_that_holds_no_weights(sentence, sop_tree, finished_run, tmp_path, flag, content):
    """As --pretrained_model and as the last.pt of a run that is to go on."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    file = folder / "last.pt"
    if content in ("list", "tensor"):
        torch.save([1, 2] if content == "list" else torch.zeros(3), file)
    else:
        file.write_text("hello\n" if content == "text" else "")
    before = contents(folder)
    if flag == "pretrained_model":
        said = sentence("train_elem", train_flags(sop_tree, tmp_path / "out", pretrained_model=file))
    else:
        said = sentence(
            "train_elem", [f"--checkpoint={folder}", "--total_iter_num=6", "--allow_changed=total_iter_num"]
        )
    assert str(file) in said
    assert not (tmp_path / "out").exists() and contents(folder) == before


@pytest.mark.parametrize("content", ["{", "[1, 2]", "{}", '{"flags": 3}'])
@pytest.mark.parametrize("flag", ["config", "checkpoint", "pretrained_model"])
def test_broken_config(sentence, sop_tree, finished_run, tmp_path, flag, content):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "config.json").write_text(content)
    source = folder / "config.json" if flag == "config" else folder
    said = sentence("train_elem", train_flags(sop_tree, tmp_path / "out", **{flag: source}))
    assert f"cannot read flags from {str(folder / 'config.json')!r}" in said
    assert not (tmp_path / "out").exists()


def test_config_with_an_impossible_value(sentence, sop_tree, finished_run, tmp_path):
    config = json.loads((finished_run / "config.json").read_text())
    config["flags"]["image_shape"] = "wide"
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = sentence("train_elem", [f"--config={tmp_path / 'config.json'}", f"--model_save_dir={tmp_path / 'out'}"])
    assert "--image_shape: 'wide' is not" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["nothing", "a stage 2 run", "a weights file"])
def test_scores_need_a_stage_1_run(sentence, no_network, sop_tree, finished_pair_run, tmp_path, source):
    shutil.copy(finished_pair_run / "last.pt", tmp_path / "weights.pt")
    sources = {"nothing": None, "a stage 2 run": finished_pair_run, "a weights file": tmp_path / "weights.pt"}
    line = line_of("infer", sop_tree, tmp_path / "out", pretrained_model=sources[source])
    said = sentence("infer", [*line, "--scores"])
    assert "--scores needs a run of train_elem.py as --pretrained_model" in said
    assert not (tmp_path / "out").exists()
