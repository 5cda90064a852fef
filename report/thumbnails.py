"""What a report shows of a row: an image itself, a text drawn, a sound as its spectrogram."""

from pathlib import Path

import numpy as np

from core.items import is_clip, is_text, text_of
from data.audio.picture import draw_sound_picture
from data.image.files import read_image
from data.records import Records
from data.text.picture import draw_text_picture


def load_thumbnail(records: Records, index: int) -> np.ndarray:
    """Row `index` of a list as a picture, (H, W, 3) uint8 RGB. Raises InputError for a file that cannot be read."""
    return read_thumbnail(records.paths[index], records.box_of(index))


def read_thumbnail(path: str, box: np.ndarray | None) -> np.ndarray:
    """As `load_thumbnail`, of what has this path and box."""
    if is_text(path):
        return draw_text_picture(text_of(path))
    if is_clip(path):
        return draw_sound_picture(path)
    return read_image(path, box)


def short_name(path: str) -> str:
    """What a caption calls a row: a file's name, or the text."""
    if is_text(path):
        return text_of(path)
    return Path(path).name
