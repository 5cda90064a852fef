"""Sheets of retrieval: queries with their nearest neighbours, framed by right and wrong. Arrays in, a PNG out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from core.errors import InputError
from report.drawing import (
    FAINT,
    INK,
    SCALE,
    TITLE_SIZE,
    WHITE,
    Colour,
    blank_canvas,
    draw_centred,
    draw_text,
    fill_rounded,
    letterbox,
    text_width,
    to_pixels,
)
from report.png import read_png, write_png

QUERY, RIGHT, WRONG, NEUTRAL = (47, 110, 220), (36, 154, 84), (214, 57, 57), (190, 196, 203)
# All in pixels before scaling.
FRAME, PAD, RADIUS = 3, 3, 7  # frame, air between frame and image, rounding
GAP, QUERY_GAP, MARGIN = 12, 26, 22  # between neighbours, after the query, around the sheet
TITLE, LEGEND = 36, 48  # heights above the first row
CAPTION, LABEL = 24, 14  # heights of the first and the second line of text below a tile
BASELINE = 15  # of the first line, below its tile
LEAST_WIDTH = 240  # of a sheet within its margins, for the legend


class Neighbour(NamedTuple):
    """What a query found: its image (uint8 (H, W, 3) RGB), whether it is right (None: unknown), its score."""

    image: np.ndarray
    is_right: bool | None
    score: float


def neighbour_sheet(
    rows: Sequence[tuple[np.ndarray, Sequence[Neighbour]]],
    path: str | Path | None = None,
    title: str = "",
    captions: Sequence[str] | None = None,
    thumbnail: int = 96,
    labels: Sequence[tuple[str, Sequence[str]]] | None = None,
) -> np.ndarray:
    """Draw each query (blue frame) with its neighbours (green where right, red where wrong), nearest first.

    rows: (query, neighbours) each; query is a uint8 image (H, W, 3) in RGB of any size. A neighbour that is neither
    right nor wrong has a grey frame and no sign. captions: one text a row, written below the query. labels: (text of
    the query, texts of its neighbours) a row, written below the captions and scores. thumbnail: pixels before the
    sheet's twofold scale. Returns the sheet as uint8 (H, W, 3) in RGB and, given `path`, writes it there as PNG.
    Raises InputError where there are no rows or the file cannot be written.
    """
    if not rows:
        raise InputError("a picture of neighbours needs at least one query")
    side = thumbnail + 2 * (FRAME + PAD)
    lefts = _column_lefts(max(len(neighbours) for _, neighbours in rows), side)
    head = MARGIN + LEGEND
    if title:
        head += TITLE
    row_height = side + CAPTION + GAP
    if labels:
        row_height += LABEL

    height = head + len(rows) * row_height - GAP + MARGIN
    width = max(lefts[-1] + side + MARGIN, 2 * MARGIN + LEAST_WIDTH)
    sheet = blank_canvas(height, width)
    judged = any(is_right is not None for _, neighbours in rows for _, is_right, _ in neighbours)
    _draw_head(sheet, title, [left + side / 2 for left in lefts], judged)
    for i, (query, neighbours) in enumerate(rows):
        top = head + i * row_height
        baseline = top + side + BASELINE
        draw_tile(sheet, query, lefts[0], top, thumbnail, QUERY)
        if captions:
            draw_centred(sheet, captions[i], lefts[0] + side / 2, baseline, INK, side)
        for left, (image, is_right, score) in zip(lefts[1:], neighbours):
            draw_tile(sheet, image, left, top, thumbnail, frame_colour(is_right))
            if is_right is not None:
                draw_badge(sheet, left + side - 4, top + 4, is_right)
            draw_centred(sheet, f"{score:.2f}", left + side / 2, baseline, FAINT)
        if labels:
            query_text, neighbour_texts = labels[i]
            for left, text in zip(lefts, [query_text, *neighbour_texts]):
                draw_centred(sheet, text, left + side / 2, baseline + LABEL, INK, side)

    if path is not None:
        write_png(sheet, path)
    return sheet


def side_by_side(
    sheets: Sequence[np.ndarray | str | Path], titles: Sequence[str], path: str | Path | None = None
) -> np.ndarray:
    """Put sheets (arrays or PNG files) next to each other, each below its title.

    Returns and writes as neighbour_sheet.
    """
    pictures = []
    for sheet in sheets:
        if isinstance(sheet, (str, Path)):
            sheet = read_png(sheet)
        pictures.append(sheet)

    head = SCALE * 46
    height = head + max(len(picture) for picture in pictures)
    space = np.full((height, SCALE * 28, 3), 255, np.uint8)
    columns = []
    for picture, title in zip(pictures, titles, strict=True):
        column = np.full((height, picture.shape[1], 3), 255, np.uint8)
        column[head : head + len(picture)] = picture
        draw_text(column, title, MARGIN, 40, INK, TITLE_SIZE, bold=True)
        columns += [column, space]
    joined = np.concatenate(columns[:-1], axis=1)

    if path is not None:
        write_png(joined, path)
    return joined


def _column_lefts(neighbours: int, side: int) -> list[int]:
    """Left edges of the query's column and of those of its neighbours."""
    first = MARGIN + side + QUERY_GAP
    return [MARGIN] + [first + i * (side + GAP) for i in range(neighbours)]


def _draw_head(sheet: np.ndarray, title: str, centres: Sequence[float], judged: bool) -> None:
    """The title, the legend (of right and wrong where any is judged), and above each column what it holds."""
    y = MARGIN
    if title:
        draw_text(sheet, title, MARGIN, y + 14, INK, TITLE_SIZE, bold=True)
        y += TITLE

    legend = [("query", QUERY)]
    if judged:
        legend += [("right", RIGHT), ("wrong", WRONG)]
    x = MARGIN
    for word, colour in legend:
        fill_rounded(sheet, x, y, 12, 12, 3, colour)
        draw_text(sheet, word, x + 18, y + 10, INK)
        x += 18 + text_width(word) + 20

    for rank, centre in enumerate(centres[1:], start=1):
        draw_centred(sheet, str(rank), centre, y + 37, FAINT)


def draw_tile(sheet: np.ndarray, image: np.ndarray, left: float, top: float, thumbnail: int, colour: Colour) -> None:
    """One letterboxed image in its rounded frame, whose outer top left corner is (left, top)."""
    inner = thumbnail + 2 * PAD
    fill_rounded(sheet, left, top, inner + 2 * FRAME, inner + 2 * FRAME, RADIUS, colour)
    fill_rounded(sheet, left + FRAME, top + FRAME, inner, inner, RADIUS - FRAME, WHITE)
    x, y = to_pixels(left + FRAME + PAD, top + FRAME + PAD)
    side = SCALE * thumbnail
    sheet[y : y + side, x : x + side] = letterbox(image, side)


def frame_colour(is_right: bool | None) -> Colour:
    if is_right is None:
        return NEUTRAL
    if is_right:
        return RIGHT
    return WRONG


def draw_badge(sheet: np.ndarray, x: float, y: float, is_right: bool) -> None:
    """A tick or a cross, so that right and wrong differ by more than red and green."""
    cv2.circle(sheet, to_pixels(x, y), round(SCALE * 9.5), WHITE, -1, cv2.LINE_AA)
    cv2.circle(sheet, to_pixels(x, y), SCALE * 8, frame_colour(is_right), -1, cv2.LINE_AA)
    if is_right:
        strokes = [[(-3.5, 0.3), (-1, 3), (3.8, -2.6)]]
    else:
        strokes = [[(-3, -3), (3, 3)], [(-3, 3), (3, -3)]]
    for stroke in strokes:
        points = np.array([to_pixels(x + dx, y + dy) for dx, dy in stroke], np.int32)
        cv2.polylines(sheet, [points], False, WHITE, round(SCALE * 1.6), cv2.LINE_AA)
