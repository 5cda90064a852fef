"""What every logger can do, and what it is told when it is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class RunFacts:
    """What a logger is opened for: a run in `folder`, which may go on.

    A resumed run goes on after step `start`, or with the test of that step (`retested`). project, tags: under what a
    server keeps it.
    """

    folder: Path
    start: int = 0
    resumed: bool = False
    retested: bool = False
    project: str = ""
    tags: tuple[str, ...] = ()

    def kept_id(self, name: str) -> str | None:
        """By what a server knows this run, where it goes on there."""
        file = self.folder / f"{name}.id"
        if self.resumed and file.is_file():
            return file.read_text().strip() or None
        return None

    def keep_id(self, name: str, identity: str) -> None:
        """Remember by what a server knows this run, for when it goes on."""
        (self.folder / f"{name}.id").write_text(f"{identity}\n")


class Logger:
    """Takes what a run has to show. One that has no use for something leaves its method as it is here: nothing is done.

    files: patterns of the files that it keeps in the run's folder, which go when the run is overwritten. A logger that
    stands in the registry has `open`, too, a class method that makes it of a run's RunFacts.
    """

    files: tuple[str, ...] = ()

    @staticmethod
    def refuse_unready() -> None:
        """Raise InputError, before the run begins, where a package or a key is missing."""

    def config(self, sections: dict[str, object]) -> None:
        """What config.json holds, once, when the run begins."""

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        """Figures by name, of the group `train` or `test`."""

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

    def checkpoint(self, path: Path, step: int) -> None:
        """A file of weights that the run leaves, once it is done: of the last step, of the best, the network alone."""

    def close(self) -> None:
        """Nothing comes any more."""
