"""Image files to arrays: the one place that opens them to work with what is in them."""

import os
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.items import member_of
from data.image.decode import decode_whole
from data.members import read_member
from data.records import Records


def read_bytes(path: str | Path) -> np.ndarray:
    """A file, or an image within another file (core/items.py), as (N,) uint8. Raises InputError when it cannot be
    read."""
    member = member_of(path)
    try:
        if member is not None:
            return read_member(member)
        # A third of the time of np.fromfile, which opens a file twice.
        with open(path, "rb", buffering=0) as file:
            return np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {str(path)!r}: {error.strerror}") from None


def byte_count(path: str | Path) -> int:
    """How many bytes `read_bytes` gives. Raises OSError, or InputError, when it cannot be read."""
    member = member_of(path)
    if member is None:
        return os.path.getsize(path)
    if member.size is None:
        return len(read_bytes(path))
    return member.size


def read_image(path: str | Path, box: np.ndarray | None = None) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` (pixels) if given."""
    return decode_whole(read_bytes(path), path, box)


def load(records: Records, index: int) -> np.ndarray:
    """Image `index` of a list, (H, W, 3) uint8 RGB, cropped to its box."""
    return read_image(records.paths[index], records.box_of(index))
