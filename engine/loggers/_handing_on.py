"""What a logger is told, handed on to another one by one method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core.console import log
from core.text import counted, plural
from engine.loggers._protocol import Logger


class HandingOn(Logger, ABC):
    """A logger that stands before another: whatever it is told comes to `_tell`."""

    name: str
    told: int  # reports so far
    lost: int  # of them

    @abstractmethod
    def _tell(self, method: str, *arguments: object) -> None:
        """The other logger's method of this name is to be called with these arguments."""

    def _say_lost(self, reason: str = "") -> None:
        """Say how many reports are lost, if any. reason: `: why`, or nothing."""
        if self.lost:
            log(
                f"{self.name}: {self.lost} of {counted(self.told, 'report')} {plural(self.lost, 'is', 'are')} lost"
                f"{reason}; the run itself is whole"
            )

    def config(self, sections: dict[str, object]) -> None:
        self._tell("config", sections)

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        self._tell("log", figures, step, group)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self._tell("image", name, picture, step)

    def embedding(
        self,
        name: str,
        matrix: torch.Tensor,
        columns: Sequence[str],
        labels: list[list[str]],
        tiles: np.ndarray,
        step: int,
    ) -> None:
        self._tell("embedding", name, matrix, columns, labels, tiles, step)

    def checkpoint(self, path: Path, step: int) -> None:
        self._tell("checkpoint", path, step)
