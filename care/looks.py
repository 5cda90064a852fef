"""Every file of a list looked at once: whether it can be read, how large it is, and a small picture to compare."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.items import content_of, file_of, is_clip, is_text, start_of, text_of
from data.audio.files import read_sound
from data.image.decode import crop_to_box, decode_whole
from data.image.files import read_bytes
from data.records import Records

SIDE = 48  # pixels of the small picture
BLUR = 1.0  # standard deviation in its pixels: what re-encoding changes at an edge is no difference


@dataclass(frozen=True)
class Look:
    """What was seen of one row.

    digest: SHA-256 of its file and its box, of a text without case and signs. size: (height, width) of the whole
    picture, None where that cannot be read or is none. picture: (SIDE, SIDE, 3) uint8 of what its box cuts out, None
    for texts and sounds. problem: why the row cannot be used, else None.
    """

    digest: bytes = b""
    size: tuple[int, int] | None = None
    picture: np.ndarray | None = None
    problem: str | None = None


def look_at_all(records: Records) -> list[Look]:
    """A Look at each row, in order, behind a progress bar."""
    return list(_looks(records))


def _looks(records: Records) -> Iterator[Look]:
    with ThreadPoolExecutor() as pool:
        looks = pool.map(lambda row: look_at(records.paths[row], records.box_of(row)), range(len(records)))
        yield from tqdm(looks, desc="looking", total=len(records), unit=records.noun, leave=False, disable=None)


def look_at(path: str, box: np.ndarray | None) -> Look:
    """A Look at one row by its path and box."""
    if is_text(path):
        plain = "".join(letter for letter in text_of(path).casefold() if letter.isalnum())
        return Look(hashlib.sha256((plain or text_of(path)).encode(errors="surrogatepass")).digest())
    size = None
    try:
        encoded = read_bytes(content_of(path))
        digest = hashlib.sha256(encoded)
        if is_clip(path):
            read_sound(file_of(path), start_of(path) or 0.0)
            digest.update(path[len(file_of(path)) :].encode(errors="surrogatepass"))
            return Look(digest.digest())
        whole = decode_whole(encoded, path)
        size = whole.shape[:2]
        cut = crop_to_box(whole, path, box)
    except InputError as error:
        return Look(size=size, problem=str(error))
    if box is not None and not np.isnan(box).any():
        digest.update(np.asarray(box, np.float64).tobytes())
    small = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return Look(digest.digest(), size, cv2.GaussianBlur(small, (0, 0), BLUR))
