"""Image files to arrays: the one place that opens them to work with what is in them."""

from pathlib import Path

import numpy as np

from core.errors import InputError
from data.image.decode import decode_whole
from data.records import Records


def read_bytes(path: str | Path) -> np.ndarray:
    """A file as (N,) uint8. Raises InputError when it cannot be read."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {str(path)!r}: {error.strerror}") from None


def read_image(path: str | Path, box: np.ndarray | None = None) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` (pixels) if given."""
    return decode_whole(read_bytes(path), path, box)


def load(records: Records, index: int) -> np.ndarray:
    """Image `index` of a list, (H, W, 3) uint8 RGB, cropped to its box."""
    return read_image(records.paths[index], records.box_of(index))
