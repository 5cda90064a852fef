"""What an earlier version of this repository wrote is still read: a run, its config.json, embeddings, an index.

tests/data/earlier was made by it, of the tests' own pictures: three steps of arcmargin on Tiny (runs.py).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import read_json, run

from config.commands import TRAIN_ELEM
from config.parse import parse
from embeddings.files import load_table
from retrieval.index.index import Index

EARLIER = Path(__file__).parent / "data" / "earlier"
CPU = ["--use_gpu=False", "--num_workers=0"]
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def run_dir(tmp_path):
    """A copy of the run, which may go on."""
    return shutil.copytree(EARLIER / "run", tmp_path / "run")


def test_config_json_replays_every_flag():
    flags = read_json(EARLIER / "run" / "config.json")["flags"]
    values = parse([f"--config={EARLIER / 'run'}"], TRAIN_ELEM, "").values
    found = json.loads(json.dumps(values))
    for name, value in flags.items():
        if value is not None:
            assert found[name] == value, name


def test_a_run_goes_on(run_dir, sop_tree):
    changed = "--allow_changed=total_iter_num,data_dir"
    run("train_elem", [f"--checkpoint={run_dir}", "--total_iter_num=5", f"--data_dir={sop_tree}", changed])
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["group"] == "train"] == [1, 2, 3, 4, 5]
    assert read_json(run_dir / "result.json")["step"] == 5


@pytest.mark.parametrize("source", ["", "last.pt", "model.safetensors"])
def test_its_weights_embed_as_they_did(source, sop_tree, tmp_path):
    """By their cosines, since another build of OpenCV decodes other pixels."""
    before = load_table(str(EARLIER / "embeddings.npz"))
    model = f"--pretrained_model={EARLIER / 'run' / source}"
    run("infer", [model, f"--data_dir={sop_tree}", "--test_list=Ebay_test.txt", f"--output={tmp_path / 'x.npz'}", *CPU])
    after = load_table(str(tmp_path / "x.npz"))
    assert after.fingerprint == before.fingerprint and (after.records.labels == before.records.labels).all()
    rows = [table.head(len(table)).double() for table in (before, after)]
    assert np.min(np.asarray((rows[0] * rows[1]).sum(1) / (rows[0].norm(dim=1) * rows[1].norm(dim=1)))) > 0.999


def test_its_embeddings_are_evaluated(tmp_path, sop_tree, monkeypatch):
    printed = run("eval", [f"--embeddings={EARLIER / 'embeddings.npz'}", f"--output_dir={tmp_path}", "--use_gpu=False"])
    assert "End test 30, test_recall" in printed


def test_its_index_is_searched_and_changed(tmp_path, sop_tree):
    folder = shutil.copytree(EARLIER / "index", tmp_path / "index")
    line = [f"--pretrained_model={EARLIER / 'run'}", f"--data_dir={sop_tree}", *CPU]
    query = next(sop_tree.glob("*/12_0.jpg"))
    run("search", ["find", folder, *line, "--input", query, "--k=3", "--output", tmp_path / "hits.json"])
    (answer,) = read_json(tmp_path / "hits.json")
    assert len(answer["hits"]) == 3
    held = len(Index.open(folder))
    run("search", ["add", folder, *line, "--input", query])
    assert len(Index.open(folder)) == held + 1
