"""Pictures as PNG files in the run's folder: pictures/test_scatter_000300.png is that of step 300."""

from pathlib import Path
from typing import Self

import cv2
import numpy as np

from core.files import replacing
from engine.loggers._protocol import Logger, RunFacts

FOLDER = "pictures"


class PngLogger(Logger):
    """Writes each picture into `folder`/pictures, by name and step; figures and embeddings are not for it.

    A step that is made again replaces its picture.
    """

    files = (f"{FOLDER}/*.png",)

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        return cls(facts.folder)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        _, content = cv2.imencode(".png", picture[..., ::-1])
        with replacing(self.folder / f"{name.replace('/', '_')}_{step:06d}.png") as file:
            file.write(content.tobytes())
