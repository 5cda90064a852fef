"""The images that a page shows: small copies of them, each once, encoded within a fixed number of bytes."""

import base64
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from core.errors import InputError
from report.picture import letterbox

THUMBNAIL, TILE = 112, 48  # pixels a side: in an album, on a sheet
ALBUM_BYTES, SHEET_BYTES = 2_000_000, 3_000_000
QUALITIES = (80, 60, 40, 20, 5, 1)  # tried in turn until the bytes suffice; noise fits at 1
LONGEST_FILE, LONGEST_LABEL = 80, 40  # letters


@dataclass(frozen=True)
class Images:
    """A list of N images and what is known of them.

    name: what the list is called. paths, labels (N,): strings or integers. load: a row's image, uint8 RGB (H, W, 3).
    categories: (N,) or None.
    """

    name: str
    paths: np.ndarray
    labels: np.ndarray
    load: Callable[[int], np.ndarray]
    categories: np.ndarray | None = None

    @cached_property
    def folder(self):
        """The folder that all paths begin with, with its slash; it is left out of the files' names."""
        prefix = os.path.commonprefix([str(path) for path in self.paths])
        return prefix[: prefix.rfind("/") + 1]

    def file(self, row):
        name = str(self.paths[row])[len(self.folder) :]
        return name if len(name) <= LONGEST_FILE else f"…{name[1 - LONGEST_FILE :]}"

    def label(self, row):
        return shortened(self.labels[row])

    def category(self, row):
        return None if self.categories is None else shortened(self.categories[row])

    def picture(self, row, side):
        """A row's image in a white square, uint8 (side, side, 3). Raises InputError, naming the file, for none."""
        try:
            image = self.load(int(row))
        except OSError as error:
            raise InputError(f"cannot read image {str(self.paths[row])!r}: {error.strerror or error}") from None
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"image {str(self.paths[row])!r} came as {found}; a report takes uint8 (H, W, 3)")
        return letterbox(image, side)


class Album:
    """Images gathered while a page is put together; all are read at the end, each once."""

    def __init__(self):
        self._places = {}

    def place(self, images, row):
        """The number under which a row of some Images will stand in `entries`."""
        return self._places.setdefault((id(images), int(row)), (len(self._places), images))[0]

    def entries(self):
        """One dict for each image in order: label, category (or None), file, and the image as a data URI."""
        rows = [(images, row) for (_, row), (_, images) in self._places.items()]
        pictures = [images.picture(row, THUMBNAIL) for images, row in rows]
        for quality in QUALITIES:
            encoded = [_webp(picture, quality) for picture in pictures]
            if sum(map(len, encoded)) <= ALBUM_BYTES:
                break
        return [
            {"label": images.label(row), "category": images.category(row), "file": images.file(row), "image": _uri(one)}
            for (images, row), one in zip(rows, encoded)
        ]


def sheet(images, rows):
    """One picture of many rows as square tiles, line by line: (data URI, tiles in a line)."""
    columns = math.ceil(math.sqrt(len(rows)))
    canvas = np.full((TILE * math.ceil(len(rows) / columns), TILE * columns, 3), 255, np.uint8)
    for place, row in enumerate(rows):
        top, left = TILE * (place // columns), TILE * (place % columns)
        canvas[top : top + TILE, left : left + TILE] = images.picture(row, TILE)
    for quality in QUALITIES:
        encoded = _webp(canvas, quality)
        if len(encoded) <= SHEET_BYTES:
            break
    return _uri(encoded), columns


def shortened(name):
    """A label's or category's text, cut where it is endless."""
    text = str(name)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _webp(image, quality):
    return cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _uri(encoded):
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"
