"""TensorBoard: curves, pictures, and embeddings in its projector."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from core.errors import InputError
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS

FILES = "events.out.tfevents.*"


@LOGGERS.register("tensorboard")
class TensorBoardLogger(Logger):
    """Writes event files into the run's folder; figures stand there as GROUP/NAME.

    What a resumed run had shown after step `start` is hidden.
    """

    files = (FILES,)

    @staticmethod
    def refuse_unready() -> None:
        # The writer, which takes a second to import, waits for the run.
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "--loggers=tensorboard needs the package tensorboard: pip install -r requirements.txt, or give "
                "--loggers=jsonl"
            )

    def __init__(self, folder: Path, start: int, resumed: bool):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, so not for --help

        purge_step = start + 1 if resumed else None
        self.writer = SummaryWriter(folder, purge_step=purge_step)

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        return cls(facts.folder, facts.start, facts.resumed)

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def embedding(
        self,
        name: str,
        matrix: torch.Tensor,
        columns: Sequence[str],
        labels: list[list[str]],
        tiles: np.ndarray,
        step: int,
    ) -> None:
        readable = [[_as_utf8(text) for text in row] for row in labels]
        pictures = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
        self.writer.add_embedding(matrix, readable, pictures, step, name, metadata_header=list(columns))

    def close(self) -> None:
        self.writer.close()


def has_curves(folder: Path) -> bool:
    """Whether event files in a folder hold more than what each begins with: its package may be broken, a disk full."""
    for file in folder.glob(FILES):
        with file.open("rb") as events:
            length = events.read(8)
        # A record is the length of its content, 8 bytes, 4 that check it, the content, and 4 more that check that.
        if file.stat().st_size > 8 + 4 + int.from_bytes(length, "little") + 4:
            return True
    return False


def _as_utf8(text: str) -> str:
    """A text in which what is no UTF-8, as old file names have it, is written out: TensorBoard refuses it."""
    return text.encode(errors="backslashreplace").decode()
