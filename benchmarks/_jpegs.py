"""JPEG files to measure with, made from code and the embedded drawings, the same at every run."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from data.image.files import load
from data.lists import open_list


def photographs() -> list[np.ndarray]:
    """Two photographs that come with scikit-learn, (427, 640, 3) BGR; none without it."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return []
    return [np.ascontiguousarray(image[:, :, ::-1]) for image in load_sample_images().images]


def texture(rng: np.random.Generator, height: int, width: int, octaves: int = 8) -> np.ndarray:
    """Noise in octaves, each twice as fine and half as strong: (H, W, 3) float32 around 0."""
    noise = np.zeros((height, width, 3), np.float32)
    for octave in range(octaves):
        coarse = rng.normal(size=(2 + 2**octave, 2 + 2**octave, 3)).astype(np.float32)
        coarse[:] = 0.8 * coarse.mean(axis=2, keepdims=True) + 0.2 * coarse  # mostly grey, as nature is
        noise += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / 2 ** (0.6 * octave)
    return noise


def dense(
    rng: np.random.Generator, height: int, width: int, photos: list[np.ndarray], drawings: list[np.ndarray]
) -> np.ndarray:
    """A detail of a photograph, or noise, with grain; a drawing somewhere."""
    if photos:
        photo = photos[rng.integers(len(photos))]
        size = int(rng.integers(300, 420))
        top, left = rng.integers(photo.shape[0] - size), rng.integers(photo.shape[1] - size)
        image = cv2.resize(photo[top : top + size, left : left + size], (width, height), interpolation=cv2.INTER_CUBIC)
        image = image + rng.normal(scale=2, size=(height, width, 1))
    else:
        image = 128 + texture(rng, height, width)
    size = min(height, width) // 3
    top, left = rng.integers(height - size), rng.integers(width - size)
    drawing = cv2.resize(drawings[rng.integers(len(drawings))], (size, size), interpolation=cv2.INTER_CUBIC)
    image[top : top + size, left : left + size] *= drawing / 255
    return image


def product(
    rng: np.random.Generator, height: int, width: int, photos: list[np.ndarray], drawings: list[np.ndarray]
) -> np.ndarray:
    """A large drawing on white, textured where it is not white."""
    size = int(0.9 * min(height, width))
    top, left = (height - size) // 2, (width - size) // 2
    image = np.full((height, width, 3), 255, np.float32)
    drawing = cv2.resize(drawings[rng.integers(len(drawings))], (size, size), interpolation=cv2.INTER_CUBIC)
    inside = drawing.min(axis=2, keepdims=True) < 245
    image[top : top + size, left : left + size] = drawing + inside * texture(rng, size, size, 9) / 0.8
    return image


def make_set(folder: Path, kind: Callable[..., np.ndarray], qualities: tuple[int, int], count: int) -> list[str]:
    """Write `count` JPEGs that follow from the code alone; returns their paths."""
    folder.mkdir()
    train = open_list("Ebay_train.txt", None, "train")
    drawings = [np.ascontiguousarray(load(train, row)[:, :, ::-1]) for row in range(0, len(train), 40)]
    photos = photographs()
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = rng.integers(500, 801, 2)
        image = np.clip(kind(rng, height, width, photos, drawings), 0, 255).astype(np.uint8)
        quality = int(rng.integers(*qualities, endpoint=True))
        path = str(folder / f"{number}.jpg")
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        paths.append(path)
    return paths
