"""Images as a transform takes them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from compat.oml._errors import RefusedType
from data.image.decode import decode_whole
from data.image.files import read_image


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


def takes_arrays(transform: Callable) -> bool:
    """Whether a transform is one of albumentations, which takes arrays by the name `image`."""
    return type(transform).__module__.partition(".")[0] == "albumentations"


def get_im_reader_for_transforms(transforms: Callable | None) -> Callable:
    """The reader that gives what a transform takes."""
    if transforms is not None and takes_arrays(transforms):
        return imread_cv2
    return imread_pillow


__all__ = ["get_im_reader_for_transforms", "imread_cv2", "imread_pillow", "takes_arrays"]
