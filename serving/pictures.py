"""Images as they come in and go out: looked at before they are decoded, and made anew before they are shown."""

import threading
from collections import OrderedDict
from typing import NamedTuple

import cv2
import numpy as np

from core.errors import InputError
from core.text import counted
from data.image.decode import decode_whole
from data.image.header import FORMATS, image_size
from data.image.resize import resize
from report.thumbnails import read_thumbnail
from serving.generation import Generation
from serving.refusal import Refusal

SIDES = {"thumb": 320, "full": 1600}  # pixels of the longer side of a picture that is shown
QUALITY = {"thumb": 84, "full": 90}  # of WebP
SHOWN_AS = "image/webp"
MOST_KEPT = 2**26  # bytes of pictures that are kept in memory
UPLOADED = "the image"  # what messages call it: what a browser says of a file's name is nobody's business


class Picture(NamedTuple):
    """A picture as it is sent: WebP, and a mark that is another one for another content."""

    content: bytes
    mark: str


def check_size(content: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) of an image's file by its header, before any turn; nothing is decoded.

    Raises Refusal for what is no image (415), as SVG is none, and for more pixels than are allowed (413).
    """
    size = image_size(np.frombuffer(content, np.uint8))
    if size is None:
        raise Refusal(415, f"that is no image; it has to be a whole {FORMATS} ({counted(len(content), 'byte')} came)")
    height, width = size
    if height * width > max_pixels:
        raise Refusal(413, f"the image has {width} x {height} pixels; no more than {max_pixels:,} are taken")
    return size


def decode(content: bytes, max_pixels: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    """An uploaded image, or what of it lies in a box, (H, W, 3) uint8 RGB. Raises Refusal as `check_size`, and for one
    that is broken (415) and for a box outside of it (422)."""
    check_size(content, max_pixels)
    try:
        image = decode_whole(np.frombuffer(content, np.uint8), UPLOADED)
    except InputError as error:
        raise Refusal(415, str(error)) from None
    if box is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = (round(side) for side in box)
    left, right = max(0, left), min(right, width)
    top, bottom = max(0, top), min(bottom, height)
    if left >= right or top >= bottom:
        raise Refusal(422, f"the box {list(box)} lies outside of the image, which is {width} x {height} pixels")
    return image[top:bottom, left:right]


class Album:
    """Pictures of items, the last ones kept in memory.

    What is sent is drawn anew from an item's pixels, so that no byte of a file on this disk is, nor what else it may
    hold, such as where a photo was taken.
    """

    def __init__(self, most_kept: int = MOST_KEPT):
        self._most_kept = most_kept
        self._kept: OrderedDict[tuple, Picture] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def picture(self, generation: Generation, id_: int, size: str) -> Picture:
        """The picture of an item, size: thumb or full. Raises Refusal where there is no such item, or its file is gone
        (404)."""
        path, box = generation.path_and_box(id_)
        # An id never comes to mean another item.
        key = (id_, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            image = read_thumbnail(path, box)
        except InputError:
            # The sentence would name the path, which is nobody's business.
            raise Refusal(404, f"the file of item {id_} cannot be read any more") from None
        picture = Picture(_encoded(image, size), f"{id_}-{size}")
        self._keep(key, picture)
        return picture

    def _keep(self, key: tuple, picture: Picture) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = picture
                self._bytes += len(picture.content)
            while self._bytes > self._most_kept and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= len(oldest.content)


def _encoded(image: np.ndarray, size: str) -> bytes:
    """An image (H, W, 3) uint8 RGB as WebP, no larger than a size allows."""
    height, width = image.shape[:2]
    shrink = max(height, width) / SIDES[size]
    if shrink > 1:
        image = resize(image, max(1, round(width / shrink)), max(1, round(height / shrink)))
    quality = [cv2.IMWRITE_WEBP_QUALITY, QUALITY[size]]
    _, encoded = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return encoded.tobytes()
