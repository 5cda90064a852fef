"""The shell recipes, run with a python that only pretends to train; every command it is given has to parse."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGE_2 = ("", "+triplet", "+quadruplet", "+eml", "+npairs")
NAMES = [first + second for first in ("softmax", "arcmargin") for second in STAGE_2]
STUB = """
import json, pathlib, subprocess, sys
script, flags = sys.argv[1], dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:] if "=" in word)
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if script.endswith("table.py"):
    sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
folder = pathlib.Path(flags["model_save_dir"] if "model_save_dir" in flags else flags["pretrained_model"] + "/eval")
folder.mkdir(parents=True)
(folder / "config.json").write_text(json.dumps({{"flags": {{"loss_name": "softmax"}}}}))
(folder / "result.json").write_text(json.dumps({{"recall": {{"1": 0.5, "5": 0.7, "10": 0.8}}}}))
"""


@pytest.fixture
def recipe(tmp_path):
    """Runs a recipe with the pretending python; returns (printed, [argv of each command])."""
    (tmp_path / "stub.py").write_text(STUB.format(log=str(tmp_path / "log")))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/stub.py" "$@"\n')
    python.chmod(0o755)

    def run(*words, **settings):
        (tmp_path / "log").write_text("")
        environment = {**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1", **settings}
        done = subprocess.run(["sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        commands = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        for script, *argv in commands:
            if script != "recipes/table.py":
                importlib.import_module(script.removesuffix(".py")).parse(argv)
        return done.stdout, commands

    return run


def test_emoji_table_makes_every_run_once_and_prints_it(recipe, tmp_path):
    root = str(tmp_path / "out")
    printed, commands = recipe("recipes/emoji_table.sh", root, SEEDS="3", NPROC="2")
    made = sorted(str(path.parent.relative_to(root)) for path in Path(root).rglob("result.json"))
    assert made == sorted(f"seed3/{name}" for name in NAMES)
    assert [words[0] for words in commands].count("train_elem.py") == 2
    assert [words[0] for words in commands].count("train_pair.py") == 8
    assert "50.00" in printed and "| npairs" in printed
    printed, commands = recipe("recipes/emoji_table.sh", root, SEEDS="3")
    assert [words[0] for words in commands] == ["recipes/table.py"] and "done already" in printed


def test_precision_table_makes_every_run_and_prints_both(recipe, tmp_path):
    root = str(tmp_path / "out")
    printed, commands = recipe("recipes/precision_table.sh", root, SEEDS="3 4")
    assert len(list(Path(root).glob("*/seed*/arcmargin/result.json"))) == 4 and printed.count("| none") == 2
    runs = {word for words in commands for word in words if word.startswith(("--precision", "--model_save_dir"))}
    for seed in (3, 4):
        assert {f"--model_save_dir={root}/{name}/seed{seed}/arcmargin" for name in ("fp32", "bf16")} <= runs
    assert runs >= {"--precision=fp32", "--precision=bf16"}


@pytest.mark.parametrize(
    "name, script, wanted",
    [
        ("softmax", "train_elem.py", ["--train_batch_size=256", "--lr=0.01", "--total_iter_num=30000"]),
        ("arcmargin", "train_elem.py", ["--arc_scale=80", "--arc_margin=0.15", "--lr_steps=15000,25000"]),
        ("arcmargin+longer", "train_elem.py", ["--loss_name=arcmargin", "--total_iter_num=90000"]),
        ("softmax+triplet", "train_pair.py", ["--train_batch_size=120", "--margin=0.1", "--lr=0.0001"]),
        ("arcmargin+eml", "train_pair.py", ["--train_batch_size=160", "--samples_each_class=2", "--seed=7"]),
    ],
)
def test_sop_runs_carry_the_ancestors_flags(recipe, tmp_path, name, script, wanted):
    _, commands = recipe("recipes/run.sh", "sop", "7", name, str(tmp_path / "out"))
    assert commands[0][0] == script and commands[1][0] == "eval.py"
    assert set(wanted) <= set(commands[0])
    if "+" in name and script == "train_pair.py":
        assert f"--pretrained_model={tmp_path}/out/seed7/{name.split('+')[0]}" in commands[0]


def test_an_interrupted_run_goes_on(recipe, tmp_path):
    folder = tmp_path / "out" / "seed0" / "softmax"
    folder.mkdir(parents=True)
    (folder / "last.pt").touch()
    (folder / "config.json").write_text(json.dumps({"flags": {"loss_name": "softmax"}}))
    with pytest.raises(AssertionError, match="KeyError"):  # the pretending python knows new runs only
        recipe("recipes/run.sh", "emoji", "0", "softmax", str(tmp_path / "out"))
    assert f"--checkpoint={folder}" in (tmp_path / "log").read_text()
