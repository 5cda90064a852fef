"""Image files to arrays; nothing else opens them."""

import numpy as np

from core.errors import InputError
from data.image.decode import decode_whole


def read_bytes(path):
    """A file as (N,) uint8. Raises InputError when it cannot be read."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {str(path)!r}: {error.strerror}") from None


def read_image(path, box=None):
    """An image file as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` (pixels) if given."""
    return decode_whole(read_bytes(path), path, box)


def load(images, index):
    """Image `index` of a list, (H, W, 3) uint8 RGB, cropped to its box."""
    return read_image(images.paths[index], images.box_of(index))
