"""No line of ours makes Python, NumPy or torch warn: training by every loss, going on, evaluation, inference, an index."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import as_line, train_flags

from losses import LOSSES

ROOT = Path(__file__).parents[1]
# One process for all calls, since it is importing torch that takes time; each warning is shown every time.
CODE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from runs import run, tiny_backbone
with tiny_backbone():
    for script, line in json.loads(sys.argv[3]):
        run(script, line)
"""


def warnings_of(code, *words):
    """Lines on stderr, of a process that runs Python code with words behind it, that warn of a file of ours."""
    command = [sys.executable, "-W", "always", "-c", code, ROOT, ROOT / "tests", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^((.+?):\d+: \w*Warning: .*)$", done.stderr, re.M)
    return [line for line, file in shown if Path(file).is_relative_to(ROOT)]


def test_a_warning_would_be_seen():
    line, file = "import warnings; warnings.warn('odd', DeprecationWarning)", str(ROOT / "reader.py")
    assert warnings_of(f"exec(compile({line!r}, {file!r}, 'exec'))") == [f"{file}:1: DeprecationWarning: odd"]


@pytest.mark.slow
def test_nothing_warns(sop_tree, tmp_path):
    first = tmp_path / "softmax"
    more = {"micro_batch": 2, "optimiser": "adamw", "clip_norm": 0.5, "report": True, "num_workers": 1}
    calls = [
        ("train_elem", train_flags(sop_tree, tmp_path / name, loss_name=name)) for name in LOSSES.names(stage="elem")
    ]
    calls.append(("train_elem", train_flags(sop_tree, tmp_path / "more", pooling="gem", embedding_size=4, **more)))
    line = [f"--checkpoint={first}", "--total_iter_num=5", "--allow_changed=total_iter_num"]
    calls.append(("train_elem", line))
    for name in LOSSES.names(stage="pair"):
        if LOSSES.fact(name, "pairs") is not None:
            continue
        own = {"loss_name": name, "pretrained_model": first, "model": None, "image_shape": None}
        calls.append(("train_pair", train_flags(sop_tree, tmp_path / name, **own)))
    source = {"data_dir": sop_tree, "num_workers": 0, "use_gpu": False}
    model = {**source, "pretrained_model": first}
    outputs = {"report": tmp_path / "x.html", "picture": tmp_path / "x.png", "save_embeddings": tmp_path / "x.npz"}
    figures = {"pairs": True, "fmr": 0.1, "pcf": 0.5, "postprocess": "k_reciprocal,constant_threshold"}
    calls.append(("eval", as_line({**model, **outputs, **figures, "output_dir": tmp_path / "eval"})))
    calls.append(("infer", [*as_line({**model, "output": tmp_path / "x.json"}), "--scores"]))
    index = tmp_path / "index"
    calls.append(("search", ["build", index, *as_line(model)]))
    calls.append(
        ("search", ["find", index, *as_line({**source, "input": "Ebay_test.txt", "output": tmp_path / "y.json"})])
    )
    calls = [(script, list(map(str, line))) for script, line in calls]
    assert warnings_of(CODE, json.dumps(calls)) == []
