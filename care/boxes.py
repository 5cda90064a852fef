"""Boxes that are probably wrong: what a list's reader refuses, and what only the picture shows."""

from dataclasses import dataclass

import numpy as np

from care.looks import Look
from core.numerals import read_float
from data.fixes import BOX, KEEP, NO_BOX, REMOVE, RawRow
from data.formats.csv import CSV_BOX
from data.image.decode import box_overhang

OVERHANG = 1.0  # pixels that rounding may bring
WHOLE = 0.98  # of the picture's area
FEWEST_PIXELS = 4  # a side
LEAST_SHARE = 0.001  # of the picture's area
RARE = 0.05  # what more than so many boxes of a list are is its way
SAME_BOX = 0.9  # of the joint area


@dataclass(frozen=True)
class BoxDoubt:
    """What is wrong with a box: a sentence, what to do, how sure that is; other: a row that has the same box."""

    evidence: str
    action: str
    confidence: float
    other: int | None = None


def doubt_of_text(row: RawRow, size: tuple[int, int] | None, sentence: str) -> BoxDoubt:
    """What to do with a box that the list's reader refuses in a `sentence`; size: (height, width) of the picture.

    Corners that are swapped are put right, shares of the picture become pixels, what is below 0 is cut off.
    """
    try:
        left, top, right, bottom = (read_float(row.cells.get(name, "").strip()) for name in CSV_BOX)
    except ValueError:
        return BoxDoubt(sentence, f"{BOX}{NO_BOX}", 0.8)
    box = np.array([min(left, right), min(top, bottom), max(left, right), max(top, bottom)])
    if not np.isfinite(box).all():
        return BoxDoubt(sentence, f"{BOX}{NO_BOX}", 0.8)
    if size is not None:
        height, width = size
        if box.max() <= 1:
            box *= (width, height, width, height)
        box = np.clip(box, 0, (width, height, width, height))
    box = np.round(np.maximum(box, 0), 2)
    if int(box[0]) == int(box[2]) or int(box[1]) == int(box[3]):
        return BoxDoubt(sentence, REMOVE, 0.8)
    return BoxDoubt(sentence, _action(box), 0.9)


def box_doubts(boxes: np.ndarray, looks: list[Look]) -> dict[int, BoxDoubt]:
    """{row: BoxDoubt} of boxes (N, 4) in pixels, rows of NaN for none, on pictures that were looked at."""
    doubts: dict[int, BoxDoubt] = {}
    given = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    rare: dict[str, dict[int, BoxDoubt]] = {"whole": {}, "small": {}}
    for row in given.tolist():
        size = looks[row].size
        if size is None:
            continue
        height, width = size
        box = boxes[row]
        picture = f"its picture is {width} x {height} pixels, the box {_text(box)}"
        inside = np.clip(box, 0, (width, height, width, height))
        share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / (width * height)
        if share <= 0:
            doubts[row] = BoxDoubt(f"{picture}: it lies outside", REMOVE, 1.0)
        elif box_overhang(box, height, width) > OVERHANG:
            doubts[row] = BoxDoubt(f"{picture}: it reaches out of it", _action(inside), 0.9)
        elif share >= WHOLE:
            rare["whole"][row] = BoxDoubt(f"{picture}: it is nearly the whole of it", KEEP, 0.3)
        elif share < LEAST_SHARE or min(inside[2] - inside[0], inside[3] - inside[1]) < FEWEST_PIXELS:
            rare["small"][row] = BoxDoubt(f"{picture}: hardly anything is in it", KEEP, 0.5)
    for found in rare.values():
        if len(found) <= max(1, RARE * len(given)):
            doubts.update(found)
    return doubts


def same_boxes(boxes: np.ndarray, files: list[str], codes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows of one picture whose boxes are nearly the same and whose labels, codes (N,), are not."""
    by_file: dict[str, list[int]] = {}
    for row in np.flatnonzero(~np.isnan(boxes).any(axis=1)).tolist():
        by_file.setdefault(files[row], []).append(row)
    pairs = []
    for rows in by_file.values():
        for position, row in enumerate(rows):
            for other in rows[:position]:
                if codes[row] != codes[other] and _overlap(boxes[row], boxes[other]) >= SAME_BOX:
                    pairs.append((other, row))
    return pairs


def _overlap(box: np.ndarray, other: np.ndarray) -> float:
    """The area that two boxes share, as a share of what both cover."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = float(np.prod(np.maximum(0, high - low)))
    areas = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]))
    return shared / (areas - shared)


def _action(box: np.ndarray) -> str:
    return f"{BOX}{_text(box)}"


def _text(box: np.ndarray) -> str:
    return ",".join(f"{side:g}" for side in box.tolist())
