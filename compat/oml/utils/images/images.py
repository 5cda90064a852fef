"""Images as arrays, tensors and pictures of Pillow."""

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from compat.oml._errors import RefusedType
from compat.oml.const import PAD_COLOR, TBBox, TColor
from core.errors import InputError
from data.image.decode import decode_whole
from data.image.files import read_image

TImage = Image.Image | np.ndarray
TImReader = Callable[[Path | str | bytes], Any]


def imread_cv2(im_src: Path | str | bytes) -> np.ndarray:
    """A file, or the bytes of one, as (H, W, 3) uint8 RGB, turned as its camera was held."""
    if isinstance(im_src, bytes):
        return decode_whole(np.frombuffer(im_src, np.uint8), "the image")
    if isinstance(im_src, (str, Path)):
        return read_image(im_src)
    raise RefusedType(f"an image is read of a path or of bytes, not of {type(im_src).__name__}")


def imread_pillow(im_src: Path | str | bytes) -> Image.Image:
    """As imread_cv2, as a picture of Pillow."""
    return Image.fromarray(imread_cv2(im_src))


def tensor_to_numpy_image(img: torch.Tensor) -> np.ndarray:
    """A tensor (C, H, W) as a picture (H, W, C) uint8, from its least value to its largest."""
    levels = img.detach().cpu().permute(1, 2, 0).numpy()
    levels = levels - levels.min()
    return (levels / levels.max() * 255).astype(np.uint8)


def draw_bbox(im: np.ndarray, bbox: TBBox | None, color: TColor) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 with a frame around a box in it, or around all of it."""
    height, width = im.shape[:2]
    left, top, right, bottom = bbox or (0, 0, width, height)
    thickness = max(3, round(0.025 * (height + width)))
    return cv2.rectangle(im.copy(), (left, top), (right - 1, bottom - 1), color, thickness)


def square_pad(img: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) in the middle of a white square."""
    height, width = img.shape[:2]
    missing = max(height, width) - np.array([height, width])
    top, left = missing // 2
    bottom, right = missing - missing // 2
    return cv2.copyMakeBorder(img, top, bottom, left, right, cv2.BORDER_CONSTANT, value=PAD_COLOR)


def figure_to_nparray(fig: Any) -> np.ndarray:
    """A figure of matplotlib as a picture (H, W, 3) uint8 RGB; the figure is closed."""
    from matplotlib import pyplot

    fig.canvas.draw()
    picture = np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(fig)
    return picture


def try_to_open_image(im_path: Path, f_imread: TImReader) -> str | None:
    """The path of an image that its reader refuses; None of one that it reads."""
    try:
        f_imread(im_path)
    except (InputError, OSError, ValueError):
        return str(im_path)
    return None


def find_broken_images(images_list: Sequence[Path], f_imread: TImReader, num_processes: int = 10) -> list[str]:
    """The paths of those images that a reader refuses, which several processes try."""
    with multiprocessing.Pool(num_processes) as pool:
        tried = pool.starmap(try_to_open_image, [(path, f_imread) for path in images_list])
    return [path for path in tried if path is not None]


__all__ = [
    "TImReader",
    "TImage",
    "draw_bbox",
    "figure_to_nparray",
    "find_broken_images",
    "imread_cv2",
    "imread_pillow",
    "square_pad",
    "tensor_to_numpy_image",
    "try_to_open_image",
]
