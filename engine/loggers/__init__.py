"""Where a run's figures and pictures go; one file a logger, of which each is told everything."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from engine.loggers._background import Background
from engine.loggers._guard import Guard
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS
from engine.loggers.clearml import ClearmlLogger
from engine.loggers.jsonl import JsonlLogger
from engine.loggers.mlflow import MlflowLogger
from engine.loggers.neptune import NeptuneLogger
from engine.loggers.png import PngLogger
from engine.loggers.tensorboard import TensorBoardLogger, has_curves
from engine.loggers.wandb import WandbLogger

__all__ = [
    "LOGGERS",
    "Background",
    "ClearmlLogger",
    "Guard",
    "JsonlLogger",
    "Logger",
    "MlflowLogger",
    "NeptuneLogger",
    "PngLogger",
    "RunFacts",
    "TensorBoardLogger",
    "USUAL",
    "WandbLogger",
    "has_curves",
    "logger_files",
    "open_loggers",
    "refuse_unready",
]

USUAL = ("jsonl", "tensorboard")


def refuse_unready(names: Iterable[str]) -> None:
    """Raise InputError for a logger whose package or key is missing, before anything is written."""
    for name in names:
        LOGGERS[name].refuse_unready()


def open_loggers(
    folder: Path,
    start: int = 0,
    resumed: bool = False,
    retested: bool = False,
    names: Iterable[str] = USUAL,
    project: str = "",
    tags: tuple[str, ...] = (),
) -> list[Logger]:
    """The loggers of a run in `folder`: those of these names, and the one of pictures, which every run has.

    A resumed run goes on after step `start`, or with the test of that step (`retested`). What talks to a server does so
    in a thread of its own. None of them ends a run.
    """
    facts = RunFacts(folder, start, resumed, retested, project, tags)
    loggers: list[Logger] = []
    for name in names:
        kind = LOGGERS[name]
        if LOGGERS.fact(name, "remote", False):
            loggers.append(Background(name, partial(kind.open, facts)))
        else:
            loggers.append(Guard(name, partial(kind.open, facts)))
    loggers.append(Guard("pictures", partial(PngLogger.open, facts)))
    return loggers


def logger_files() -> list[str]:
    """Patterns of all files that loggers keep in a run's folder."""
    kinds = [*(LOGGERS[name] for name in LOGGERS), PngLogger]
    return [pattern for kind in kinds for pattern in kind.files]
