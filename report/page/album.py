"""The images that a page shows: small copies of them, each once, encoded within a fixed number of bytes; and sounds."""

import base64
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from core.errors import InputError
from core.items import is_clip, is_text, text_of
from data.audio.player import encode_clips
from data.records import Records
from embeddings.attention import Look
from report.attention import overlay
from report.drawing import letterbox
from report.page.captions import Captions

THUMBNAIL, TILE = 112, 48  # pixels a side: in an album, on a sheet
ALBUM_BYTES, SHEET_BYTES = 2_000_000, 3_000_000
SOUND_BYTES = 8_000_000
LONGEST_TEXT = 300  # characters of a text in an album
QUALITIES = (80, 60, 40, 20, 5, 1)  # tried in turn until the bytes suffice; noise fits at 1

LoadImage = Callable[[Records, int], np.ndarray]  # a list and a row to the row's image, uint8 RGB (H, W, 3)


class Album:
    """Images gathered while a page is put together; all are read at the end, each once."""

    def __init__(self, load_image: LoadImage):
        self._load_image = load_image
        self._items: list[tuple[Records, int]] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._looks: list[tuple[Records, int, Look]] = []

    def number(self, records: Records, row: int) -> int:
        """The number under which a row of a list will stand in `entries`."""
        key = (id(records), int(row))
        if key not in self._numbers:
            self._numbers[key] = len(self._items)
            self._items.append((records, int(row)))
        return self._numbers[key]

    def look_number(self, records: Records, row: int, look: Look | None) -> int | None:
        """The number under which a look at a row will stand among the looks; None where there is none."""
        if look is None:
            return None
        self._looks.append((records, int(row), look))
        return len(self._looks) - 1

    def contents(self) -> tuple[list[dict], list[str]]:
        """(entries, looks): one dict for each row in order, with label, category (or None), file, and the image as a
        data URI, or the text, or of a sound its picture and itself as data URIs; and a data URI for each look in order.
        """
        # A text is shown as it is, and takes no picture.
        with_picture = [item for item in self._items if not is_text(item[0].paths[item[1]])]
        pictures = [square_picture(records, row, THUMBNAIL, self._load_image) for records, row in with_picture]
        for records, row, look in self._looks:
            pictures.append(letterbox(overlay(read_picture(records, row, self._load_image), look), THUMBNAIL))
        for quality in QUALITIES:
            encoded = [_encode_webp(picture, quality) for picture in pictures]
            if sum(map(len, encoded)) <= ALBUM_BYTES:
                break
        looks = [_data_uri(content) for content in encoded[len(with_picture) :]]
        return self._entries(encoded), looks

    def _entries(self, encoded: list[bytes]) -> list[dict]:
        """The rows; encoded: the pictures of those that have one, first of all."""
        contents = iter(encoded)
        clips = [records.paths[row] for records, row in self._items if is_clip(records.paths[row])]
        sounds = iter(encode_clips(clips, SOUND_BYTES))
        captions: dict[int, Captions] = {}
        entries = []
        for records, row in self._items:
            # Once a list: texts are made of all of its rows.
            if id(records) not in captions:
                captions[id(records)] = Captions(records)
            texts = captions[id(records)]
            entry = {"label": texts.label(row), "category": texts.category(row), "file": texts.file(row)}
            path = records.paths[row]
            if is_text(path):
                entry["text"] = text_of(path)[:LONGEST_TEXT]
            else:
                entry["image"] = _data_uri(next(contents))
            if is_clip(path):
                entry["sound"] = next(sounds)
            entries.append(entry)
        return entries


def contact_sheet(records: Records, rows: Sequence[int], load_image: LoadImage) -> tuple[str, int]:
    """One picture of many rows as square tiles, line by line: (data URI, tiles in a line)."""
    columns = math.ceil(math.sqrt(len(rows)))
    lines = math.ceil(len(rows) / columns)
    canvas = np.full((TILE * lines, TILE * columns, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        top = TILE * (number // columns)
        left = TILE * (number % columns)
        canvas[top : top + TILE, left : left + TILE] = square_picture(records, row, TILE, load_image)
    for quality in QUALITIES:
        encoded = _encode_webp(canvas, quality)
        if len(encoded) <= SHEET_BYTES:
            break
    return _data_uri(encoded), columns


def square_picture(records: Records, row: int, side: int, load_image: LoadImage) -> np.ndarray:
    """A row's image in a white square, uint8 (side, side, 3). Raises InputError, naming the file, for none."""
    return letterbox(read_picture(records, row, load_image), side)


def read_picture(records: Records, row: int, load_image: LoadImage) -> np.ndarray:
    """A row's image, uint8 (H, W, 3). Raises InputError, naming the file, for none."""
    path = str(records.paths[row])
    try:
        image = load_image(records, int(row))
    except OSError as error:
        raise InputError(f"cannot read image {path!r}: {error.strerror or error}") from None
    if not isinstance(image, np.ndarray):
        raise InputError(f"image {path!r} came as {type(image).__name__}; a report takes uint8 (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image {path!r} came as {image.dtype} {image.shape}; a report takes uint8 (H, W, 3)")
    return image


def _encode_webp(image: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _data_uri(encoded: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"
