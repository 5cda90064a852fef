"""Loggers: each takes everything, and keeps what it has a use for."""

import json

import cv2
import numpy as np
import pytest
import torch

from engine.loggers import JsonlLogger, PngLogger, TensorBoardLogger, logger_files, open_loggers

FIGURES = {"loss": 0.5, "lr": 0.1}


@pytest.fixture
def loggers(tmp_path):
    opened = open_loggers(tmp_path)
    yield opened
    for logger in opened:
        logger.close()


def test_every_logger_takes_everything(tmp_path, loggers):
    """Also a text that is no UTF-8, as old file names have it."""
    assert [type(logger) for logger in loggers] == [JsonlLogger, TensorBoardLogger, PngLogger]
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[1, 2] = 200, 100, 0
    labels = [["cat", "a.jpg"], ["dog", "\udcff.jpg"]]
    for logger in loggers:
        logger.config({"flags": {"seed": 0}})
        logger.log(FIGURES, 1, "train")
        logger.image("test/worst_queries", picture, 1)
        logger.embedding("test", torch.eye(2), ("label", "file"), labels, np.stack([picture, picture]), 1)
        logger.close()
    files = [file for pattern in logger_files() for file in tmp_path.glob(pattern)]
    assert len(files) == 3
    assert (cv2.imread(str(tmp_path / "pictures" / "test_worst_queries_000001.png")) == picture[..., ::-1]).all()
    (table,) = tmp_path.rglob("metadata.tsv")
    assert table.read_text().splitlines() == ["label\tfile", "cat\ta.jpg", "dog\t\\udcff.jpg"]


@pytest.mark.parametrize("retested", [False, True])
def test_a_resumed_run_forgets_what_it_does_again(tmp_path, retested):
    """Steps after the checkpoint, the test of its own step if that was not done, and a line that was torn."""
    lines = [(1, "train"), (2, "train"), (2, "test"), (3, "train")]
    file = tmp_path / "metrics.jsonl"
    text = "".join(json.dumps({"step": step, "group": group}) + "\n" for step, group in lines)
    file.write_text(text + '{"step": 4, "gro')
    JsonlLogger(tmp_path, start=2, resumed=True, retested=retested).close()
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    expected = lines[:2] if retested else lines[:3]
    assert [(line["step"], line["group"]) for line in kept] == expected
