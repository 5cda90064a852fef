"""The items of an index as they are given: embeddings, and what they are called by: path, box and label."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import InputError

UNKNOWN = -1  # the code of a label that nobody knows; no label itself, as -1 may well be one
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class LabelColumn:
    """Labels of N items: `codes` (N,) int64, the place of each in `table`, UNKNOWN for none; `table`: distinct labels.

    A label is an integer of 64 bits or a string, and stays what it is: 7 and "7" are two.
    """

    codes: np.ndarray
    table: list[int | str]

    @classmethod
    def of(cls, labels, count: int) -> LabelColumn:
        """Of labels (N,): integers, strings, or objects of both and None (unknown); or None, for `count` unknown ones.

        Raises InputError for another number of them, and for a label that is none of these.
        """
        if labels is None:
            return cls(np.full(count, UNKNOWN), [])
        # As objects, since NumPy would make strings of the integers in a list of both.
        labels = np.array(labels, dtype=object) if isinstance(labels, (list, tuple)) else np.asarray(labels)
        if labels.shape != (count,) or labels.dtype.kind not in "iuUO":
            raise InputError(
                f"labels are {labels.shape} {labels.dtype} for {count} embeddings; an index takes an integer, a string "
                "or None (unknown) for each"
            )
        if labels.dtype.kind == "O":
            return cls._of_objects(labels.tolist())
        table, codes = np.unique(labels, return_inverse=True)
        table = table.tolist()
        for label in table[-1:]:  # the greatest; only unsigned ones can be too great
            _refuse_label(label)
        return cls(codes.reshape(-1).astype(np.int64), table)

    @classmethod
    def _of_objects(cls, labels: list) -> LabelColumn:
        codes, places = np.full(len(labels), UNKNOWN), {}
        for row, label in enumerate(labels):
            if label is not None:
                label = label.item() if isinstance(label, np.generic) else label
                _refuse_label(label)
                codes[row] = places.setdefault(_distinct(label), len(places))
        return cls(codes, [label for _, label in places])

    @classmethod
    def joined(cls, columns: list[LabelColumn]) -> LabelColumn:
        """Columns one behind the other."""
        places, codes = {}, [np.zeros(0, np.int64)]
        for column in columns:
            # UNKNOWN, -1, takes the last one.
            own = [places.setdefault(_distinct(label), len(places)) for label in column.table] + [UNKNOWN]
            codes.append(np.array(own)[column.codes])
        return cls(np.concatenate(codes), [label for _, label in places])

    def take(self, rows) -> LabelColumn:
        """The labels of some rows (indices or a mask); those that none of them has leave the table."""
        codes = self.codes[rows]
        used = np.flatnonzero(np.bincount(codes + 1, minlength=len(self.table) + 1)[1:])  # less UNKNOWN, -1
        places = np.full(len(self.table) + 1, UNKNOWN)
        places[used] = np.arange(len(used))
        return LabelColumn(places[codes], [self.table[code] for code in used.tolist()])

    def values(self, rows=slice(None)) -> np.ndarray:
        """The labels of some rows (indices of any shape), an array of that shape of int, str and None."""
        table = np.empty(len(self.table) + 1, dtype=object)
        table[:-1] = self.table  # and None behind them, where UNKNOWN, -1, looks
        return table[self.codes[rows]]

    @classmethod
    def checked(cls, codes: np.ndarray, table, place: str) -> LabelColumn:
        """Of columns from the disk, whatever is in them. Raises InputError, naming `place`, for what cannot be."""
        if not isinstance(table, list):
            raise InputError(f"{place!r} is damaged: the labels are no list but {type(table).__name__}")
        for number, label in enumerate(table):
            if not _is_label(label):
                raise InputError(f"{place!r} is damaged: label {number} is neither an integer of 64 bits nor a string")
        if len(set(map(_distinct, table))) < len(table):
            raise InputError(f"{place!r} is damaged: a label comes twice")
        if len(codes) and not UNKNOWN <= codes.min() <= codes.max() < len(table):
            raise InputError(
                f"{place!r} is damaged: label codes reach from {codes.min()} to {codes.max()} for {len(table)} labels"
            )
        return cls(codes.astype(np.int64), table)


def _distinct(label: int | str) -> tuple[type, int | str]:
    return type(label), label


def _is_label(label) -> bool:
    return type(label) is int and label in INT64 or isinstance(label, str)


def _refuse_label(label):
    if not _is_label(label):
        raise InputError(
            f"the label {str(label)[:40]} is {type(label).__name__}; a label of an index is an integer of 64 bits, a "
            "string, or None (unknown)"
        )


@dataclass(frozen=True)
class Items:
    """N items: embeddings (N, D) float32, paths (N of str), boxes (N, 4) float64 (NaN row: the whole image), labels."""

    embeddings: np.ndarray
    paths: list[str]
    boxes: np.ndarray
    labels: LabelColumn

    @classmethod
    def none(cls, width: int) -> Items:
        return cls(np.zeros((0, width), np.float32), [], np.zeros((0, 4)), LabelColumn.of(None, 0))

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Items:
        """Those in some rows (n,), rising."""
        if len(rows) == len(self):  # all: embeddings that are mapped stay so
            return self
        paths = [self.paths[row] for row in rows.tolist()]
        return Items(self.embeddings[rows], paths, self.boxes[rows], self.labels.take(rows))

    def keys(self) -> list[str | tuple]:
        return item_keys(self.paths, self.boxes)


def item_keys(paths: list[str], boxes: np.ndarray) -> list[str | tuple]:
    """What tells items apart: the path, and with a box (path, left, top, right, bottom)."""
    keys = list(paths)
    for row in np.flatnonzero(~np.isnan(boxes[:, 0])).tolist():
        keys[row] = (paths[row], *boxes[row].tolist())
    return keys


def item_name(path, box) -> str:
    """What an item is called where one text has to do: its path, and behind `#` its box in pixels, if it has one.

    box: left, top, right, bottom; None, or NaN, for the whole image. Two boxes are never called the same.
    """
    if box is None or np.isnan(box).any():
        return str(path)
    return f"{path}#{','.join(map(_side_text, np.asarray(box, dtype=float).tolist()))}"


def absolute_paths(paths: Iterable[str | Path]) -> list[str]:
    """Paths as an index holds them: from the root, so that it works from any folder."""
    return [os.path.abspath(str(path)) for path in paths]


def _side_text(side: float) -> str:
    short = f"{side:g}"
    return short if float(short) == side else repr(side)


def split_name(name: str) -> tuple[str, tuple[float, ...] | None]:
    """(path, box) of an item's name; the box is None where there is none behind the last `#`."""
    path, sign, text = name.rpartition("#")
    try:
        box = tuple(float(side) for side in text.split(","))
    except ValueError:
        box = ()
    return (path, box) if sign and len(box) == 4 else (name, None)


def checked_boxes(boxes, count: int) -> np.ndarray:
    """Boxes (N, 4) float64 of `count` items; None: whole images. Raises InputError for what are no boxes."""
    if boxes is None:
        return np.full((count, 4), np.nan)
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.shape != (count, 4):
        raise InputError(
            f"boxes are {boxes.shape} for {count} embeddings; an index takes left, top, right, bottom for each, or NaN"
        )
    wrong = wrong_boxes(boxes)
    if len(wrong):
        raise InputError(
            f"box {boxes[wrong[0]].tolist()} of row {wrong[0]} is not 0 <= left < right, 0 <= top < bottom, nor all "
            f"NaN (the whole image); {len(wrong)} of {count} are wrong"
        )
    return boxes + 0.0  # which makes 0 of -0


def wrong_boxes(boxes: np.ndarray) -> np.ndarray:
    """Rows (M,) of boxes (N, 4) that hold neither left < right, top < bottom, finite and 0 or more, nor NaN only."""
    left, top, right, bottom = boxes.T
    is_ordered = (0 <= left) & (left < right) & (right < np.inf) & (0 <= top) & (top < bottom) & (bottom < np.inf)
    return np.flatnonzero(~(is_ordered | np.isnan(boxes).all(1)))


class Lookup:
    """Finds items of an index by what people call them. rows: Rows (retrieval/segments.py)."""

    def __init__(self, rows):
        self.rows, self._places = rows, defaultdict(list)
        for place, path in enumerate(rows.paths()):
            self._places[path].append(place)
        self._boxes = rows.boxes()

    def ids(self, item) -> list[int]:
        """Ids of what `item` stands for, none where nothing does.

        An item is its id (int); its path (str), which stands for all boxes of it; its name (`item_name`); or
        (path, box), box None for the whole image, which stands for exactly that.
        """
        if not isinstance(item, (str, tuple)):
            number = int(item)
            return [number] if number in INT64 and self.rows.has(np.array(number)) else []
        path, box = item if isinstance(item, tuple) else (item, None)
        places = self._places.get(path, [])
        if isinstance(item, tuple):
            return self._with_box(places, box)
        if not places:  # a path may itself have a `#` in it, and comes first
            path, box = split_name(item)
            places = self._places.get(path, []) if box else []
            return self._with_box(places, box)
        return self.rows.ids[places].tolist()

    def below(self, folder: str) -> list[int]:
        """Ids of all items that lie below a folder."""
        start = os.path.join(folder, "")
        below = [places for path, places in self._places.items() if path.startswith(start)]
        return [int(self.rows.ids[place]) for places in below for place in places]

    def _with_box(self, places: list[int], box) -> list[int]:
        wanted = np.full(4, np.nan) if box is None else np.asarray(box, dtype=float)
        return [
            int(self.rows.ids[place]) for place in places if np.array_equal(self._boxes[place], wanted, equal_nan=True)
        ]
