"""Loggers: each takes everything, and keeps what it has a use for."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch

from core.errors import InputError
from engine.loggers import (
    Guard,
    JsonlLogger,
    Logger,
    PngLogger,
    TensorBoardLogger,
    has_curves,
    logger_files,
    open_loggers,
    refuse_unready,
)

FIGURES = {"loss": 0.5, "lr": 0.1}


@pytest.fixture
def loggers(tmp_path):
    opened = open_loggers(tmp_path)
    yield opened
    for logger in opened:
        logger.close()


def test_every_logger_takes_everything(tmp_path, loggers):
    """Also a text that is no UTF-8, as old file names have it."""
    assert [type(guard.logger) for guard in loggers] == [JsonlLogger, TensorBoardLogger, PngLogger]
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


class Refusing(Logger):
    """A disk that refuses, or a package with a fault, at `refused`."""

    refused = "log"

    def __init__(self):
        self.figures = []

    def log(self, figures, step, group):
        if self.refused == "log" and step < 3:
            raise OSError(28, "No space left on device")
        self.figures.append(step)

    def close(self):
        if self.refused == "close":
            raise RuntimeError("torn\nsecond line")


@pytest.mark.parametrize("refused, lost", [("log", 2), ("close", 0), ("open", 3), (None, 0)])
def test_what_a_logger_cannot_write_is_said_and_ends_nothing(monkeypatch, capsys, refused, lost):
    """Said once when it begins and once at the end; what can be written is, by it and by all others."""
    monkeypatch.setattr(Refusing, "refused", refused)
    made = []

    def open_logger():
        if refused == "open":
            raise PermissionError(13, "Permission denied")
        made.append(Refusing())
        return made[0]

    guard = Guard("jsonl", open_logger)
    for step in (1, 2, 3):
        guard.log({"loss": 1.0}, step, "train")
    guard.close()
    printed = capsys.readouterr().out
    assert printed.count("; what it does not keep is lost, and the run goes on") == (refused is not None)
    assert printed.count(f"jsonl: {lost} of 3 reports are lost; the run itself is whole") == (lost > 0)
    assert [logger.figures for logger in made] == {"log": [[3]], "open": []}.get(refused, [[1, 2, 3]])


@pytest.mark.parametrize("refused", ["jsonl", "tensorboard", "pictures"])
def test_files_that_cannot_be_written(tmp_path, capsys, refused):
    """A folder where a file should be, so that nobody writes it, not even root."""
    if refused == "jsonl":
        (tmp_path / "metrics.jsonl").mkdir()
    elif refused == "pictures":
        (tmp_path / "pictures").write_text("a file")
    else:
        tmp_path = tmp_path / "none"
        tmp_path.write_text("a file")
    for logger in open_loggers(tmp_path, names=("tensorboard",) if refused == "tensorboard" else ("jsonl",)):
        logger.log(FIGURES, 1, "train")
        logger.image("test/scatter", np.zeros((4, 4, 3), np.uint8), 1)
        logger.close()
    assert f"{refused}: " in capsys.readouterr().out


def test_curves_are_there_once_a_figure_is(tmp_path):
    """Not in a file that a full disk left empty, nor in one that has come no farther than its head."""
    (tmp_path / "events.out.tfevents.0").touch()
    assert not has_curves(tmp_path)
    logger = TensorBoardLogger(tmp_path, 0, False)
    logger.writer.flush()
    assert not has_curves(tmp_path)
    logger.log({"loss": 0.5}, 1, "train")
    logger.close()
    assert has_curves(tmp_path)


def test_tensorboard_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="--loggers=tensorboard needs the package tensorboard: pip install -r req"):
        refuse_unready(("jsonl", "tensorboard"))


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
