"""Pictures in PNG files."""

from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.files import replacing


def write_png(image: np.ndarray, path: str | Path) -> None:
    """Write an RGB image (uint8, (H, W, 3)), whole or not at all. Raises InputError where that cannot be."""
    _, content = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    with replacing(path) as file:
        file.write(content.tobytes())


def read_png(path: str | Path) -> np.ndarray:
    """An RGB image, uint8 (H, W, 3). Raises InputError where there is none to read."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"cannot read the picture {path}")
    return image[..., ::-1]
