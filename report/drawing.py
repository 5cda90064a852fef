"""What pictures are drawn with: text, rounded shapes and letterboxed images on a white canvas.

Places and sizes are given in pixels before scaling: a canvas has SCALE times as many, so that small text and thin
lines stay clear. Colours are RGB.
"""

import unicodedata

import cv2
import numpy as np

SCALE = 2
WHITE, INK, FAINT = (255, 255, 255), (31, 35, 40), (110, 118, 129)
TITLE_SIZE, TEXT_SIZE = 0.62, 0.42  # scales of OpenCV's plain font
MOST_CHARACTERS = 200  # of a text that may be shortened; no tile has room for more
# What OpenCV's font, which knows ASCII only, shows instead where taking accents off does not help.
INSTEAD = {"‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "−": "-", "×": "x", "⁄": "/"}
INSTEAD |= {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"}

Colour = tuple[int, int, int]


def blank_canvas(height: float, width: float) -> np.ndarray:
    """A white canvas, uint8 (SCALE * height, SCALE * width, 3)."""
    return np.full((SCALE * round(height), SCALE * round(width), 3), 255, np.uint8)


def to_pixels(x: float, y: float) -> tuple[int, int]:
    """Where a point lies on the canvas."""
    return round(SCALE * x), round(SCALE * y)


def fill_rounded(
    canvas: np.ndarray, left: float, top: float, width: float, height: float, radius: float, colour: Colour
) -> None:
    """Fill a rectangle with rounded corners."""
    # Two rectangles make a cross that leaves the four corners out.
    for dx, dy in ((radius, 0), (0, radius)):
        right, bottom = to_pixels(left + width - dx, top + height - dy)
        cv2.rectangle(canvas, to_pixels(left + dx, top + dy), (right - 1, bottom - 1), colour, -1)
    # Circles in 1/16 of a pixel: an arc that meets the edges has its centre between two pixels.
    for x in (left + radius, left + width - radius):
        for y in (top + radius, top + height - radius):
            column, row = to_pixels(x, y)
            centre = (16 * column - 8, 16 * row - 8)
            cv2.circle(canvas, centre, 16 * SCALE * radius - 8, colour, -1, cv2.LINE_AA, shift=4)


def draw_text(
    canvas: np.ndarray,
    text: str,
    x: float,
    baseline: float,
    colour: Colour,
    size: float = TEXT_SIZE,
    bold: bool = False,
) -> None:
    """Write a line of text that begins at x."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    if bold:
        font = cv2.FONT_HERSHEY_DUPLEX
    cv2.putText(canvas, plain_text(text), to_pixels(x, baseline), font, SCALE * size, colour, 1, cv2.LINE_AA)


def draw_centred(
    canvas: np.ndarray, text: str, centre: float, baseline: float, colour: Colour, room: float | None = None
) -> None:
    """Write a line of text around x = centre; where it is wider than `room` pixels, its end gives way to dots."""
    if room is None:
        text = plain_text(text)
    else:
        text = shortened(plain_text(text[:MOST_CHARACTERS]), room)
    draw_text(canvas, text, centre - text_width(text) / 2, baseline, colour)


def shortened(text: str, room: float) -> str:
    """A plain text whose end gives way to dots where it is wider than `room` pixels."""
    if text_width(text) <= room:
        return text
    while text and text_width(f"{text}...") > room:
        text = text[:-1]
    return f"{text.rstrip()}..."


def text_width(text: str) -> float:
    """How wide a plain text is at TEXT_SIZE, in pixels before scaling."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, SCALE * TEXT_SIZE, 1)
    return width / SCALE


def plain_text(text: str) -> str:
    """A text in the printable ASCII that OpenCV can draw: accents are left out, what has no like is a question mark."""
    bare = [character for character in unicodedata.normalize("NFKD", text) if not unicodedata.combining(character)]
    alike = "".join(INSTEAD.get(character, character) for character in bare)
    return "".join(character if " " <= character <= "~" else "?" for character in alike)


def letterbox(image: np.ndarray, side: int) -> np.ndarray:
    """Fit an image (uint8, (H, W, 3)) into a white square of `side` pixels, keeping its proportions, centred."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    fitted_width = max(1, round(width * ratio))
    fitted_height = max(1, round(height * ratio))
    interpolation = cv2.INTER_CUBIC
    if ratio < 1:
        interpolation = cv2.INTER_AREA
    fitted = cv2.resize(image, (fitted_width, fitted_height), interpolation=interpolation)

    square = np.full((side, side, 3), 255, np.uint8)
    left = (side - fitted_width) // 2
    top = (side - fitted_height) // 2
    square[top : top + fitted_height, left : left + fitted_width] = fitted
    return square
