"""A quick look at every image file of a list before work begins: what cannot be read is found, for little time."""

import mmap
import os
import struct

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from data.image.decode import decode_whole
from data.image.header import MAX_PIXELS, image_size

ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82", b"GIF8": b";"}
QUIET = 2000  # images up to which no progress bar is shown


def first_broken(images, most: int) -> list[tuple[int, str]]:
    """The first images of an ImageList that cannot be read, at most `most` of them: [(row, why), ...].

    Of a file only its header and its end are looked at; where these are not as they should be, or its box might lie
    outside, it is decoded. Damage in the middle of a file can escape. On a warm disk 10,000 files take half a second.
    """
    found = []
    bar = tqdm(
        range(len(images)), desc="looking at images", unit="image", leave=False, disable=len(images) < QUIET or None
    )
    for row in bar:
        path, box = images.paths[row], images.box_of(row)
        try:
            if not is_sound(path, box):
                decode_whole(np.fromfile(path, np.uint8), path, box)
        except OSError as error:
            found.append((row, f"cannot read image {str(path)!r}: {error.strerror}"))
        except InputError as error:
            found.append((row, str(error)))
        if len(found) == most:
            break
    bar.close()
    return found


def is_sound(path, box=None) -> bool:
    """Whether a file's header, its end and its box leave no doubt that it can be read. Raises OSError."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            try:
                size = image_size(view)
            finally:
                del view  # a map cannot be closed while it is looked into
            return size is not None and size[0] * size[1] <= MAX_PIXELS and _ends_well(mapped) and _fits(box, min(size))


def _ends_well(mapped) -> bool:
    """Whether a file's last bytes are what its format ends in, or its length is what its header says."""
    start = mapped[:12]
    for sign, end in ENDS.items():
        if start.startswith(sign):
            return mapped[-len(end) :] == end
    if start[:4] == b"RIFF":
        return struct.unpack_from("<I", start, 4)[0] + 8 == len(mapped)
    return False


def _fits(box, shorter_side: int) -> bool:
    """Whether a box certainly holds a pixel of a picture, whichever way that is turned."""
    return box is None or np.isnan(box).any() or max(box[0], box[1]) + 1 <= shorter_side
