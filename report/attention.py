"""Sheets of where a network looked: queries and their best hits, each beside itself with the looks in colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from core.errors import InputError
from embeddings.attention import Attention, Look
from embeddings.table import EmbeddingTable
from report.drawing import (
    FAINT,
    INK,
    TITLE_SIZE,
    blank_canvas,
    draw_centred,
    draw_text,
)
from report.neighbours import (
    BASELINE,
    CAPTION,
    FRAME,
    GAP,
    MARGIN,
    PAD,
    QUERY,
    QUERY_GAP,
    TITLE,
    draw_badge,
    draw_tile,
    frame_colour,
)
from report.png import write_png
from report.queries import found_by
from report.thumbnails import load_thumbnail
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

COLUMNS = ("query", "where it looked", "best hit", "where it looked")
HEAD = 26  # height of the columns' names, in pixels before scaling
THUMBNAIL = 128  # pixels before scaling
STRENGTH = 0.65  # of the colours where a network looked most
RED = 225  # the level of OpenCV's map of colours behind which it only grows darker


class LookedAt(NamedTuple):
    """A query and its best hit (None: it found nothing), uint8 (H, W, 3) RGB, and the same with the looks (None: of
    what is no image)."""

    query: np.ndarray
    query_look: np.ndarray | None
    hit: np.ndarray | None = None
    hit_look: np.ndarray | None = None
    is_right: bool | None = None
    score: float = 0.0


def overlay(image: np.ndarray, look: Look) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB with a look in colours, from blue (little) to red; what the network did not see of
    it is grey."""
    height, width = image.shape[:2]
    heat = resized_look(look, height, width)
    levels = np.uint8(np.round(RED * np.nan_to_num(heat)))
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]
    # The more it looked, the more of the colour; so the image stays to be seen where it did not.
    share = STRENGTH * (0.15 + 0.85 * np.nan_to_num(heat))[..., None]
    mixed = (1 - share) * image + share * colours
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return np.uint8(np.round(np.where(np.isnan(heat)[..., None], (grey + 255) / 2, mixed)))


def resized_look(look: Look, height: int, width: int) -> np.ndarray:
    """A look (height, width) at the whole image, from 0 to 1, and NaN where the network saw nothing of it.

    Its least becomes 0 and its most 1; where all is equal, all is 0.
    """
    heat = look.map.astype(np.float64)
    span = heat.max() - heat.min()
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    left, top, right, bottom = look.seen
    rows, columns = heat.shape
    # The middle of each pixel of the image, in places of the map.
    x = ((np.arange(width) + 0.5 - left) / (right - left) * columns - 0.5).astype(np.float32)
    y = ((np.arange(height) + 0.5 - top) / (bottom - top) * rows - 0.5).astype(np.float32)
    x, y = np.meshgrid(x, y)
    resized = cv2.remap(heat.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).clip(0, 1)
    outside = (x < -0.5) | (x > columns - 0.5) | (y < -0.5) | (y > rows - 0.5)
    return np.where(outside, np.nan, resized)


def attention_sheet(
    rows: Sequence[LookedAt],
    path: str | Path | None = None,
    title: str = "",
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw a row a query: itself (blue frame), where it was looked at, its best hit (green where right, red where
    wrong), where that was.

    captions: one text a row, below the query; below the hit stands its score. Returns the sheet as uint8 (H, W, 3) in
    RGB and, given `path`, writes it there as PNG. Raises InputError where there are no rows or the file cannot be
    written.
    """
    if not rows:
        raise InputError("a picture of attention needs at least one query")
    side = THUMBNAIL + 2 * (FRAME + PAD)
    second = MARGIN + side + GAP
    third = second + side + QUERY_GAP
    lefts = (MARGIN, second, third, third + side + GAP)
    head = MARGIN + HEAD
    if title:
        head += TITLE
    row_height = side + CAPTION + GAP
    sheet = blank_canvas(head + len(rows) * row_height - GAP + MARGIN, lefts[-1] + side + MARGIN)
    if title:
        draw_text(sheet, title, MARGIN, MARGIN + 14, INK, TITLE_SIZE, bold=True)
    for left, name in zip(lefts, COLUMNS):
        draw_centred(sheet, name, left + side / 2, head - 10, FAINT)

    for number, row in enumerate(rows):
        top = head + number * row_height
        baseline = top + side + BASELINE
        colour = frame_colour(row.is_right)
        tiles = ((row.query, QUERY), (row.query_look, QUERY), (row.hit, colour), (row.hit_look, colour))
        for left, (image, frame) in zip(lefts, tiles):
            if image is not None:
                draw_tile(sheet, image, left, top, THUMBNAIL, frame)
        if captions:
            draw_centred(sheet, captions[number], lefts[0] + side / 2, baseline, INK, side)
        if row.hit is not None:
            draw_centred(sheet, f"{row.score:.2f}", lefts[2] + side / 2, baseline, FAINT)
            if row.is_right is not None:
                draw_badge(sheet, lefts[2] + side - 4, top + 4, row.is_right)
    if path is not None:
        write_png(sheet, path)
    return sheet


def draw_attention(
    attention: Attention,
    table: EmbeddingTable,
    query_gallery: QueryGallery,
    queries: np.ndarray,
    results: RetrievalResults | None,
    path: str | Path,
    distance: str,
) -> np.ndarray:
    """The sheet of some queries (M,), written to `path`; results: as draw_queries takes them.

    A query that found nothing is left out. Raises InputError where none is left, and where the file cannot be written.
    """
    query_rows = query_gallery.query_rows[queries].tolist()
    results, results_rows = found_by(query_gallery, queries, results, distance)
    pairs = []
    facts = []
    highest = 1.0 if distance == "cosine" else 0.0
    for query_row, results_row in zip(query_rows, results_rows):
        item = int(results.padded_ids[results_row, 0])
        if item >= 0:
            score = highest - float(results.padded_distances[results_row, 0])
            pairs.append((query_row, item))
            facts.append((bool(results.hits[results_row, 0]), score))
    if not pairs:
        raise InputError("--attention shows queries with their best hits, and none of these found any")

    rows = []
    captions = []
    for (query_row, item), looks, (is_right, score) in zip(pairs, attention.of_pairs(table, pairs), facts):
        images = [load_thumbnail(table.records, row) for row in (query_row, item)]
        overlays = [None if look is None else overlay(image, look) for image, look in zip(images, looks)]
        rows.append(LookedAt(images[0], overlays[0], images[1], overlays[1], is_right, score))
        captions.append(table.records.label_text(query_row))
    return attention_sheet(rows, path, attention.method, captions)
