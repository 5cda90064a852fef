"""A text as a picture, for sheets of neighbours and whatever else shows rows as images."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN = 224, 12  # pixels of the picture, and of the white around its text
SIZES = (36, 30, 26, 22, 19, 16, 14)  # of the font, the largest first in which the text has room
INK, PAPER = (31, 35, 40), (250, 250, 247)
LEADING = 1.25  # from one line to the next, in sizes of the font
# Knows Latin, Greek, Cyrillic, Arabic and more; on a machine without it Pillow's own, which knows Latin.
FONT = "DejaVuSans.ttf"
MOST_CHARACTERS = 400  # more have no room in the smallest size


def draw_text_picture(text: str) -> np.ndarray:
    """The text in lines on a square, (SIDE, SIDE, 3) uint8 RGB; what has no room gives way to dots.

    Characters that the font has not are drawn as it draws what is missing, mostly an empty box.
    """
    words = text[:MOST_CHARACTERS].split()
    for size in SIZES:
        font = _font(size)
        lines = _wrapped(words, font)
        most = int((SIDE - 2 * MARGIN) / (LEADING * size))
        if len(lines) <= most and len(text) <= MOST_CHARACTERS:
            break
    else:
        if len(lines) > most:
            lines = [*lines[: most - 1], f"{lines[most - 1]}…"]

    picture = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(picture)
    top = (SIDE - LEADING * size * len(lines)) / 2
    for number, line in enumerate(lines):
        left = (SIDE - font.getlength(line)) / 2
        pen.text((max(MARGIN / 2, left), top + number * LEADING * size), line, INK, font)
    return np.array(picture)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(FONT, size)
    except OSError:
        return ImageFont.load_default(size)


def _wrapped(words: list[str], font: ImageFont.FreeTypeFont) -> list[str]:
    """Words in lines as wide as the picture; one that is wider is broken."""
    room = SIDE - 2 * MARGIN
    lines = []
    line = ""
    for word in words:
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > room:
            fitting = _fitting(word, font, room)
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    if line:
        lines.append(line)
    return lines


def _fitting(word: str, font: ImageFont.FreeTypeFont, room: float) -> int:
    """How many of a word's first characters have room in a line, one at least."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= room:
        count += 1
    return count
