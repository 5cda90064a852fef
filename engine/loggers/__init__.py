"""Where a run's figures and pictures go; one file a logger, of which each is told everything."""

from pathlib import Path

from engine.loggers._protocol import Logger
from engine.loggers.jsonl import JsonlLogger
from engine.loggers.png import PngLogger
from engine.loggers.tensorboard import TensorBoardLogger

__all__ = ["JsonlLogger", "Logger", "PngLogger", "TensorBoardLogger", "logger_files", "open_loggers"]

KINDS = (JsonlLogger, TensorBoardLogger, PngLogger)


def open_loggers(folder: Path, start: int = 0, resumed: bool = False, retested: bool = False) -> list[Logger]:
    """The loggers of a run in `folder`.

    A resumed run goes on after step `start`, or with the test of that step (`retested`).
    """
    return [
        JsonlLogger(folder, start, resumed, retested),
        TensorBoardLogger(folder, start, resumed),
        PngLogger(folder),
    ]


def logger_files() -> list[str]:
    """Patterns of all files that loggers keep in a run's folder."""
    return [pattern for kind in KINDS for pattern in kind.files]
