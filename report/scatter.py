"""Embeddings as points of a plane, coloured by label: one picture, a strip of several, or all of them one by one.

Points are (N, 2), and what belongs to each, such as its label, is a text. Pictures of one training have one `Frame`, so
that nothing but the points moves between them.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from core.errors import InputError
from core.files import replacing
from report.drawing import (
    FAINT,
    INK,
    SCALE,
    TITLE_SIZE,
    Colour,
    blank_canvas,
    draw_centred,
    draw_text,
    shortened,
    text_width,
    to_pixels,
)
from report.png import write_png

# Neighbours in the list differ in lightness as well as in hue.
PALETTE: tuple[Colour, ...] = (
    (78, 121, 167),
    (242, 142, 43),
    (225, 87, 89),
    (64, 176, 166),
    (89, 161, 79),
    (220, 181, 20),
    (148, 103, 189),
    (247, 118, 165),
    (140, 86, 75),
    (90, 90, 100),
)
OTHERS: Colour = (200, 204, 210)  # of labels beyond the palette
PANEL, GRID = (248, 249, 251), (228, 231, 235)
# All in pixels before scaling.
MARGIN, SIDE, HEAD, FOOT = 20, 440, 46, 24  # around all; a plot's side; what is above it, and below it
LEGEND, LEGEND_ROW = 90, 22  # width of the legend, height of a line of it
STRIP_SIDE, STRIP_GAP, STRIP_HEAD = 190, 14, 22  # a plot of a strip, between two, above one
DOT = 2.6  # radius of a point
CORNER = 16  # so far from a plot's corners an axis has no number
AIR = 0.06  # of the points' span, between them and the frame
TICKS = 5  # about so many lines of a grid each way
OPACITY = 0.72
GIF_COLOURS = 256
FRAME_MILLISECONDS, LAST_MILLISECONDS = 250, 2500  # that an animation shows a picture


class Frame(NamedTuple):
    """The square of the plane that a picture shows: its middle and half of its side."""

    x: float
    y: float
    half: float


@dataclass(frozen=True)
class Colouring:
    """Which colour each of N points has: codes (N,) into `names`, of which the last are drawn as OTHERS."""

    codes: np.ndarray
    names: list[str]
    others: bool

    @classmethod
    def of(cls, labels: Sequence[str] | np.ndarray) -> "Colouring":
        """By label, where the palette has a colour for each; else the labels with most points have one."""
        distinct, codes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        if len(distinct) <= len(PALETTE):
            return cls(codes.reshape(-1), distinct.tolist(), others=False)
        # The commonest, in their own order; the last number stands for all that are left.
        shown = np.sort(np.argsort(-counts, kind="stable")[: len(PALETTE)])
        code_of = np.full(len(distinct), len(shown))
        code_of[shown] = np.arange(len(shown))
        names = [*distinct[shown].tolist(), f"{len(distinct) - len(shown)} more"]
        return cls(code_of[codes.reshape(-1)], names, others=True)

    def colour(self, code: int) -> Colour:
        if self.others and code == len(self.names) - 1:
            return OTHERS
        return PALETTE[code]


def frame_of(*points: np.ndarray) -> Frame:
    """The smallest square that shows all points of all pictures, with some air."""
    together = np.concatenate(points)
    low, high = together.min(0), together.max(0)
    half = float((high - low).max()) / 2 * (1 + 2 * AIR)
    # Where all points are one, it stands in the middle.
    if not half > 0:
        half = 1.0
    x, y = (low + high) / 2
    return Frame(float(x), float(y), half)


def scatter(
    points: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    title: str = "",
    caption: str = "",
    frame: Frame | None = None,
) -> np.ndarray:
    """One picture of points (N, 2), with the axes' numbers and a legend, uint8 (H, W, 3).

    frame: what of the plane to show, None for all points. Raises InputError for no points and numbers that are not
    finite.
    """
    _check(points)
    frame = frame or frame_of(points)
    colouring = Colouring.of(labels)
    canvas = blank_canvas(MARGIN + HEAD + SIDE + FOOT + MARGIN, 2 * MARGIN + SIDE + LEGEND)
    draw_text(canvas, title, MARGIN, MARGIN + 12, INK, TITLE_SIZE, bold=True)
    draw_text(canvas, caption, MARGIN, MARGIN + 32, FAINT)
    _draw_plot(canvas, points, colouring, frame, MARGIN, MARGIN + HEAD, SIDE, large=True)
    x = MARGIN + SIDE + 22
    for code, name in enumerate(colouring.names):
        y = MARGIN + HEAD + 12 + code * LEGEND_ROW
        _draw_dot(canvas, x, y, 5, colouring.colour(code))
        draw_text(canvas, shortened(name, LEGEND - 36), x + 14, y + 4, INK)
    return canvas


def scatter_strip(
    pictures: Sequence[tuple[np.ndarray, str]],
    labels: Sequence[str] | np.ndarray,
    path: str | Path | None = None,
    columns: int = 4,
) -> np.ndarray:
    """Several pictures of the same items in one frame: (points (N, 2), caption) each, in rows; a legend below all.

    Returns uint8 (H, W, 3) and, given `path`, writes it there as PNG. Raises InputError as `scatter` does.
    """
    for points, _ in pictures:
        _check(points)
    frame = frame_of(*[points for points, _ in pictures])
    colouring = Colouring.of(labels)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)  # rounded up
    cell = STRIP_SIDE + STRIP_GAP
    width = 2 * MARGIN + columns * cell - STRIP_GAP
    row_height = cell + STRIP_HEAD
    canvas = blank_canvas(2 * MARGIN + rows * row_height + 14, width)
    for number, (points, caption) in enumerate(pictures):
        left = MARGIN + number % columns * cell
        top = MARGIN + number // columns * row_height
        draw_centred(canvas, caption, left + STRIP_SIDE / 2, top + 10, INK, STRIP_SIDE)
        _draw_plot(canvas, points, colouring, frame, left, top + STRIP_HEAD, STRIP_SIDE, dot=1.6)
    _draw_legend_line(canvas, colouring, width / 2, 2 * MARGIN + rows * row_height - 10)
    if path is not None:
        write_png(canvas, path)
    return canvas


def animate(pictures: Sequence[np.ndarray], path: str | Path) -> None:
    """Pictures (H, W, 3) of one size, one after the other, as a GIF at half of their sides.

    Raises InputError where the file cannot be written.
    """
    halves = []
    for picture in pictures:
        halves.append(cv2.resize(picture, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA))
    colours, codes = _commonest_colours(np.stack(halves))
    frames = []
    for codes_of_one in codes:
        frame = Image.fromarray(codes_of_one)
        frame.putpalette(colours.tobytes())
        frames.append(frame)
    milliseconds = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    with replacing(path) as file:
        file.write(content.getvalue())


def _commonest_colours(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, H, W, 3) in 256 colours: (colours (c, 3), codes (n, H, W)), uint8 both.

    What is drawn here has few flat colours, which stay as they are, and edges, which take the nearest: smaller and
    clearer than what programs for photos make of it, which dither.
    """
    packed = pictures.astype(np.int32) @ np.array([2**16, 2**8, 1], np.int32)
    distinct, codes, counts = np.unique(packed, return_inverse=True, return_counts=True)
    all_colours = np.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], axis=1)
    colours = all_colours[np.argsort(-counts, kind="stable")[:GIF_COLOURS]]
    nearest = np.empty(len(distinct), np.uint8)
    for number, colour in enumerate(all_colours):
        nearest[number] = np.square(colours - colour).sum(1).argmin()
    return colours.astype(np.uint8), nearest[codes].reshape(packed.shape)


def _check(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"points have shape {points.shape}; a scatter takes (N, 2) with N >= 1")
    if not np.isfinite(points).all():
        raise InputError("points that are not finite cannot be drawn")


def _draw_plot(
    canvas: np.ndarray,
    points: np.ndarray,
    colouring: Colouring,
    frame: Frame,
    left: float,
    top: float,
    side: float,
    dot: float = DOT,
    large: bool = False,
) -> None:
    """The panel with its grid, and the points upon it; where it is `large` with the axes' numbers and labels' names."""
    corner, end = to_pixels(left, top), to_pixels(left + side, top + side)
    cv2.rectangle(canvas, corner, end, PANEL, -1)
    for value, text in _ticks(frame.x, frame.half):
        x = left + side * (value - frame.x + frame.half) / (2 * frame.half)
        cv2.line(canvas, to_pixels(x, top), to_pixels(x, top + side), GRID, 1, cv2.LINE_AA)
        # A number that would stand across a corner is left out.
        if large and abs(x - left - side / 2) < side / 2 - CORNER:
            draw_centred(canvas, text, x, top + side + 16, FAINT)
    for value, text in _ticks(frame.y, frame.half):
        y = top + side * (frame.y + frame.half - value) / (2 * frame.half)
        cv2.line(canvas, to_pixels(left, y), to_pixels(left + side, y), GRID, 1, cv2.LINE_AA)
        if large and abs(y - top - side / 2) < side / 2 - CORNER:
            draw_text(canvas, text, left + 5, y - 4, FAINT)

    scaled = (points - [frame.x, frame.y]) / (2 * frame.half) + 0.5
    columns = left + side * scaled[:, 0]
    rows = top + side * (1 - scaled[:, 1])
    # In an order that favours no label: what lies on top is left to chance.
    clear = canvas.copy()
    for row in np.random.default_rng(0).permutation(len(points)):
        _draw_dot(canvas, columns[row], rows[row], dot, colouring.colour(colouring.codes[row]))
    cv2.addWeighted(canvas, OPACITY, clear, 1 - OPACITY, 0, dst=canvas)
    if large:
        _draw_names(canvas, columns, rows, colouring)


def _draw_names(canvas: np.ndarray, columns: np.ndarray, rows: np.ndarray, colouring: Colouring) -> None:
    """Each label's name in the middle of its points, on a white disc, where names are short."""
    for code, name in enumerate(colouring.names):
        of_label = colouring.codes == code
        if len(name) > 2 or not of_label.any():
            continue
        x, y = float(np.median(columns[of_label])), float(np.median(rows[of_label]))
        _draw_dot(canvas, x, y, 9, (255, 255, 255))
        cv2.circle(canvas, to_pixels(x, y), SCALE * 9, colouring.colour(code), SCALE, cv2.LINE_AA)
        draw_centred(canvas, name, x, y + 4.5, INK)


def _draw_dot(canvas: np.ndarray, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc whose middle may lie between two pixels."""
    centre = (round(16 * SCALE * x), round(16 * SCALE * y))
    cv2.circle(canvas, centre, round(16 * SCALE * radius), colour, -1, cv2.LINE_AA, shift=4)


def _draw_legend_line(canvas: np.ndarray, colouring: Colouring, centre: float, y: float) -> None:
    """All names side by side, around x = centre."""
    names = [shortened(name, 80) for name in colouring.names]
    widths = [14 + text_width(name) + 18 for name in names]
    x = centre - (sum(widths) - 18) / 2
    for code, (name, width) in enumerate(zip(names, widths)):
        _draw_dot(canvas, x + 5, y, 5, colouring.colour(code))
        draw_text(canvas, name, x + 14, y + 4, INK)
        x += width


def _ticks(middle: float, half: float) -> list[tuple[float, str]]:
    """Round numbers within middle ± half, about TICKS of them, as (value, text)."""
    raw = 2 * half / TICKS
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - raw))
    first = np.ceil((middle - half) / step)
    last = np.floor((middle + half) / step)
    # Adding zero makes 0 of -0.
    return [(number * step, f"{number * step + 0.0:.6g}") for number in np.arange(first, last + 1)]
