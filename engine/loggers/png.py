"""Pictures as PNG files in the run's folder: pictures/test_scatter_000300.png is that of step 300."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from core.files import replacing

FOLDER = "pictures"


class PngLogger:
    """Writes each picture into `folder`/pictures, by name and step; figures and embeddings are not for it.

    A step that is made again replaces its picture.
    """

    files = (f"{FOLDER}/*.png",)

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    def config(self, sections: dict[str, object]) -> None:
        """It is in config.json beside the folder."""

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        """Pictures hold no figures."""

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        _, content = cv2.imencode(".png", picture[..., ::-1])
        with replacing(self.folder / f"{name.replace('/', '_')}_{step:06d}.png") as file:
            file.write(content.tobytes())

    def embedding(
        self,
        name: str,
        matrix: torch.Tensor,
        columns: Sequence[str],
        labels: list[list[str]],
        tiles: np.ndarray,
        step: int,
    ) -> None:
        """Pictures hold no embeddings."""

    def close(self) -> None:
        """Every picture is on the disk already."""
