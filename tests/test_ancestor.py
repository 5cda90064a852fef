"""The command lines of the ancestor's page, PaddlePaddle's metric_learning, copied letter by letter, do what it says.

Only what makes them long is put behind them: steps, images a batch, pixels.
"""

import re

import numpy as np
import pytest
import torch
from pages import Block, commands_of
from runs import read_json, run

from config.commands import COMMANDS
from config.parse import parse

# The blanks behind some backslashes stand on the page, too.
ARCMARGIN = r"""
python train_elem.py  \
        --model=ResNet50 \
        --train_batch_size=256 \
        --test_batch_size=50 \
        --lr=0.01 \
        --total_iter_num=30000 \
        --use_gpu=True \
        --pretrained_model=${path_to_pretrain_imagenet_model} \
        --model_save_dir=${output_model_path} \
        --loss_name=arcmargin \
        --arc_scale=80.0 \ 
        --arc_margin=0.15 \
        --arc_easy_margin=False
"""  # noqa: W291
EML = r"""
python train_pair.py  \
        --model=ResNet50 \
        --train_batch_size=160 \
        --test_batch_size=50 \
        --lr=0.0001 \
        --total_iter_num=100000 \
        --use_gpu=True \
        --pretrained_model=${path_to_pretrain_arcmargin_model} \
        --model_save_dir=${output_model_path} \
        --loss_name=eml \
        --samples_each_class=2
"""
EVAL = r"""
python eval.py \
       --model=ResNet50 \
       --batch_size=50 \
       --pretrained_model=${path_to_pretrain_model} \
"""
INFER = r"""
python infer.py \
       --model=ResNet50 \
       --batch_size=1 \         
       --pretrained_model=${path_to_pretrain_model}
"""  # noqa: W291
FEW = ["--total_iter_num=2", "--train_batch_size=6", "--image_shape=3,32,32", "--test_batch_size=10"]
HERE = ["--use_gpu=False", "--num_workers=0"]


def line_of(text, **variables):
    """(script, words) of a command, its variables filled in."""
    (command,) = commands_of(Block("page", 1, "sh", text))
    words = [re.sub(r"\$\{(\w+)\}", lambda match: str(variables[match[1]]), word) for word in command.words[1:]]
    return words[0].removesuffix(".py"), words[1:]


@pytest.mark.parametrize("text", [ARCMARGIN, EML, EVAL, INFER], ids=["train_elem", "train_pair", "eval", "infer"])
def test_every_flag_is_known(text, monkeypatch, record_property):
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    names = ("path_to_pretrain_imagenet_model", "path_to_pretrain_arcmargin_model", "path_to_pretrain_model")
    script, words = line_of(text, **dict.fromkeys(names, "weights.pt"), output_model_path="output")
    values = parse(words, COMMANDS[script], "").values
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        assert str(values[name]) == value or float(values[name]) == float(value)
    record_property("flags read", len(words))


def test_the_defaults_are_the_ancestors(record_property):
    """The page's list of parameters of its first command."""
    values = parse([], COMMANDS["train_elem"], "").values
    expected = {
        "model": "ResNet50",
        "train_batch_size": 256,
        "test_batch_size": 50,
        "lr": 0.01,
        "total_iter_num": 30000,
        "pretrained_model": None,
        "model_save_dir": "output",
        "loss_name": "softmax",
    }
    assert {name: values[name] for name in expected} == expected
    arcmargin = parse(["--loss_name=arcmargin"], COMMANDS["train_elem"], "").values
    assert (arcmargin["arc_scale"], arcmargin["arc_margin"], arcmargin["arc_easy_margin"]) == (80.0, 0.15, False)
    record_property("defaults equal", len(expected) + 3)


@pytest.mark.slow
def test_the_page_runs_from_weights_to_features(sop_tree, tmp_path, monkeypatch, record_property):
    """A file of ImageNet weights as torchvision names them, both stages, the evaluation, and features."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    data = [f"--data_dir={sop_tree}", *HERE]
    first, second = tmp_path / "arcmargin", tmp_path / "eml"
    names = {"path_to_pretrain_imagenet_model": tmp_path / "resnet50.pth", "output_model_path": first}
    script, words = line_of(ARCMARGIN, **names)
    run(script, [*words, *FEW, *data])
    assert read_json(first / "config.json")["flags"]["arc_scale"] == 80.0
    names = {"path_to_pretrain_arcmargin_model": first, "output_model_path": second}
    script, words = line_of(EML, **names)
    run(script, [*words, *FEW, *data])
    before, after = (read_json(folder / "result.json") for folder in (first, second))
    assert before["flags"]["loss_name"] == "arcmargin" and after["flags"]["loss_name"] == "eml"
    script, words = line_of(EVAL, path_to_pretrain_model=second)
    printed = run(script, [*words, *data])
    (recall,) = re.findall(r"End test 30, test_recall (\d\.\d{5})", printed)
    # Two steps leave all cosines above 0.9999 and nearest neighbours 1e-8 apart, which float32 cannot tell; that a
    # network that has learnt gets the same figure to the bit is tested in test_scripts.py.
    assert float(recall) == pytest.approx(after["recall"]["1"], abs=0.1)
    record_property("printed", printed.splitlines()[-1])
    script, words = line_of(INFER, path_to_pretrain_model=second)
    printed = run(script, [*words, *data])
    assert len(re.findall(r"Test-\d+-feature: \[", printed)) == 30
    printed = run(script, [*words, *data, f"--output={tmp_path / 'features.npz'}"])
    assert "Test-" not in printed
    assert np.load(tmp_path / "features.npz")["embeddings"].shape == (30, 2048)
