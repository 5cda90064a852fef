"""metrics.jsonl: a line of JSON for every line of figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core.files import replacing_synced

FILE = "metrics.jsonl"


class JsonlLogger:
    """Appends {"step": …, "group": …, NAME: figure, …} to metrics.jsonl; pictures and embeddings are not for it.

    A resumed run goes on after step `start`, or with the test of that step (`retested`).
    """

    files = (FILE,)

    def __init__(self, folder: Path, start: int, resumed: bool, retested: bool):
        path = folder / FILE
        if resumed and path.exists():
            _forget_after(path, start, retested)
        self.file = open(path, "a", buffering=1)

    def config(self, sections: dict[str, object]) -> None:
        """It is in config.json beside this file."""

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        self.file.write(json.dumps({"step": step, "group": group, **figures}) + "\n")

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Lines hold no pictures."""

    def embedding(
        self,
        name: str,
        matrix: torch.Tensor,
        columns: Sequence[str],
        labels: list[list[str]],
        tiles: np.ndarray,
        step: int,
    ) -> None:
        """Lines hold no embeddings."""

    def close(self) -> None:
        self.file.close()


def _forget_after(path: Path, start: int, retested: bool) -> None:
    """Drop the figures of steps that the interrupted run made after its last checkpoint, which are made again."""
    kept = []
    for line in path.read_text().splitlines():
        # A killed run may have torn its last line.
        if not line.endswith("}"):
            continue
        figures = json.loads(line)
        made_again = figures["group"] == "test" and retested
        if figures["step"] < start or (figures["step"] == start and not made_again):
            kept.append(f"{line}\n")
    with replacing_synced(path) as file:
        file.write("".join(kept).encode())
