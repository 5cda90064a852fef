"""What every logger can do."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class Logger(Protocol):
    """Takes what a run has to show. A logger that has no use for something does nothing with it.

    files: patterns of the files that it keeps in the run's folder, which go when the run is overwritten.
    """

    files: tuple[str, ...]

    def config(self, sections: dict[str, object]) -> None:
        """What config.json holds, once, when the run begins."""

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        """Figures by name, of the group `train` or `test`. Raises OSError where the disk refuses."""

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture, uint8 (H, W, 3), RGB."""

    def embedding(
        self,
        name: str,
        matrix: torch.Tensor,
        columns: Sequence[str],
        labels: list[list[str]],
        tiles: np.ndarray,
        step: int,
    ) -> None:
        """Embeddings (N, D), each with a label for every column and a small picture, uint8 (N, h, w, 3), RGB."""

    def close(self) -> None:
        """Nothing comes any more."""
