"""The items of an index as they are given: embeddings, and what they are called by: path, box, label and category."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.items import is_text
from core.text import counted

UNKNOWN = -1  # the code of a label that nobody knows; no label itself, as -1 may well be one
LABEL, CATEGORY = ("label", "labels"), ("category", "categories")  # what a column's values are called in sentences
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class LabelColumn:
    """Labels of N items: `codes` (N,) int64, the place of each in `table`, UNKNOWN for none; `table`: distinct labels.

    A label is an integer of 64 bits or a string, and stays what it is: 7 and "7" are two. Categories are kept alike.
    """

    codes: np.ndarray
    table: list[int | str]

    @classmethod
    def of(cls, labels: npt.ArrayLike | None, count: int, nouns: tuple[str, str] = LABEL) -> LabelColumn:
        """Of labels (N,): integers, strings, or objects of both and None (unknown); or None, for `count` unknown ones.

        nouns: what they are called, LABEL or CATEGORY. Raises InputError for another number of them, and for one that
        is none of these.
        """
        if labels is None:
            return cls(np.full(count, UNKNOWN), [])
        # As objects, since NumPy would make strings of the integers in a list of both.
        if isinstance(labels, list | tuple):
            labels = np.array(labels, dtype=object)
        labels = np.asarray(labels)
        if labels.shape != (count,) or labels.dtype.kind not in "iuUO":
            raise InputError(
                f"{nouns[1]} are {labels.shape} {labels.dtype} for {counted(count, 'embedding')}; an index takes an "
                "integer, a string or None (unknown) for each"
            )
        if labels.dtype.kind == "O":
            return cls._of_objects(labels.tolist(), nouns)
        table, codes = np.unique(labels, return_inverse=True)
        table = table.tolist()
        if table:
            _refuse_label(table[-1], nouns)  # the greatest; only unsigned ones can be too great
        return cls(codes.reshape(-1).astype(np.int64), table)

    @classmethod
    def _of_objects(cls, labels: list, nouns: tuple[str, str]) -> LabelColumn:
        codes = np.full(len(labels), UNKNOWN)
        code_of = {}
        for row, label in enumerate(labels):
            if label is None:
                continue
            if isinstance(label, np.generic):
                label = label.item()
            _refuse_label(label, nouns)
            codes[row] = code_of.setdefault(_distinct(label), len(code_of))
        return cls(codes, [label for _, label in code_of])

    @classmethod
    def joined(cls, columns: list[LabelColumn]) -> LabelColumn:
        """Columns one behind the other."""
        code_of = {}
        codes = [np.zeros(0, np.int64)]
        for column in columns:
            new_codes = [code_of.setdefault(_distinct(label), len(code_of)) for label in column.table]
            # Behind the others, where UNKNOWN, -1, looks.
            new_codes.append(UNKNOWN)
            codes.append(np.array(new_codes)[column.codes])
        return cls(np.concatenate(codes), [label for _, label in code_of])

    def take(self, rows: np.ndarray) -> LabelColumn:
        """The labels of some rows (indices or a mask); those that none of them has leave the table."""
        codes = self.codes[rows]
        counts = np.bincount(codes + 1, minlength=len(self.table) + 1)[1:]  # without UNKNOWN, -1, which comes first
        used = np.flatnonzero(counts)
        new_codes = np.full(len(self.table) + 1, UNKNOWN)
        new_codes[used] = np.arange(len(used))
        return LabelColumn(new_codes[codes], [self.table[code] for code in used.tolist()])

    def values(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The labels of some rows (indices of any shape), an array of that shape of int, str and None."""
        return self.value_table[self.codes[rows]]

    @cached_property
    def value_table(self) -> np.ndarray:
        """The table as an array of objects, and None behind it, where UNKNOWN, -1, looks."""
        table = np.empty(len(self.table) + 1, dtype=object)
        table[:-1] = self.table
        return table

    @cached_property
    def codes_by_text(self) -> dict[str, list[int]]:
        """{text: codes of the labels that read so}: one, or two where 7 and "7" are there."""
        codes: dict[str, list[int]] = {}
        for code, label in enumerate(self.table):
            codes.setdefault(str(label), []).append(code)
        return codes

    @classmethod
    def checked(cls, codes: np.ndarray, table: object, file: str, nouns: tuple[str, str] = LABEL) -> LabelColumn:
        """Of columns from the disk, whatever is in them. Raises InputError, naming the file, for what cannot be."""
        one, several = nouns
        if not isinstance(table, list):
            raise InputError(f"{file!r} is damaged: the {several} are no list but {type(table).__name__}")
        for number, label in enumerate(table):
            if not _is_label(label):
                raise InputError(f"{file!r} is damaged: {one} {number} is neither an integer of 64 bits nor a string")
        if len(set(map(_distinct, table))) < len(table):
            raise InputError(f"{file!r} is damaged: a {one} comes twice")
        if len(codes) and not UNKNOWN <= codes.min() <= codes.max() < len(table):
            raise InputError(
                f"{file!r} is damaged: {one} codes reach from {codes.min()} to {codes.max()} for {len(table)} {several}"
            )
        return cls(codes.astype(np.int64), table)


def _distinct(label: int | str) -> tuple[type, int | str]:
    return type(label), label


def _is_label(label: object) -> bool:
    if type(label) is int:  # and no bool
        return label in INT64
    return isinstance(label, str)


def _refuse_label(label: object, nouns: tuple[str, str]) -> None:
    if not _is_label(label):
        raise InputError(
            f"the {nouns[0]} {str(label)[:40]} is {type(label).__name__}; a {nouns[0]} of an index is an integer of 64 "
            "bits, a string, or None (unknown)"
        )


@dataclass(frozen=True)
class Items:
    """N items: embeddings (N, D) float32, paths (N of str), boxes (N, 4) float64 (NaN row: the whole image).

    labels, categories: a LabelColumn each.
    """

    embeddings: np.ndarray
    paths: list[str]
    boxes: np.ndarray
    labels: LabelColumn
    categories: LabelColumn

    @classmethod
    def none(cls, width: int) -> Items:
        none = LabelColumn.of(None, 0)
        return cls(np.zeros((0, width), np.float32), [], np.zeros((0, 4)), none, none)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Items:
        """Those in some rows (n,), rising."""
        if len(rows) == len(self):  # all: embeddings that are mapped stay so
            return self
        paths = [self.paths[row] for row in rows.tolist()]
        return Items(self.embeddings[rows], paths, self.boxes[rows], self.labels.take(rows), self.categories.take(rows))

    def keys(self) -> list[str | tuple]:
        return item_keys(self.paths, self.boxes)


def item_keys(paths: list[str], boxes: np.ndarray) -> list[str | tuple]:
    """What tells items apart: the path, and with a box (path, left, top, right, bottom)."""
    keys = list(paths)
    for row in np.flatnonzero(~np.isnan(boxes[:, 0])).tolist():
        keys[row] = (paths[row], *boxes[row].tolist())
    return keys


def item_name(path: str | Path, box: npt.ArrayLike | None) -> str:
    """What an item is called where one text has to do: its path, and behind `#` its box in pixels, if it has one.

    box: left, top, right, bottom; None, or NaN, for the whole image. Two boxes are never called the same.
    """
    if box is None or np.isnan(box).any():
        return str(path)
    return f"{path}#{','.join(map(_side_text, np.asarray(box, dtype=float).tolist()))}"


def absolute_paths(paths: Iterable[str | Path]) -> list[str]:
    """Paths as an index holds them: from the root, so that it works from any folder; texts as they are."""
    return [str(path) if is_text(path) else os.path.abspath(str(path)) for path in paths]


def _side_text(side: float) -> str:
    short = f"{side:g}"
    if float(short) == side:
        return short
    return repr(side)


def split_name(name: str) -> tuple[str, tuple[float, ...] | None]:
    """(path, box) of an item's name; the box is None where there is none behind the last `#`."""
    path, sign, text = name.rpartition("#")
    try:
        box = tuple(float(side) for side in text.split(","))
    except ValueError:
        box = ()
    if sign and len(box) == 4:
        return path, box
    return name, None


def checked_boxes(boxes: npt.ArrayLike | None, count: int) -> np.ndarray:
    """Boxes (N, 4) float64 of `count` items; None: whole images. Raises InputError for what are no boxes."""
    if boxes is None:
        return np.full((count, 4), np.nan)
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.shape != (count, 4):
        raise InputError(
            f"boxes are {boxes.shape} for {counted(count, 'embedding')}; an index takes left, top, right, bottom for "
            "each, or NaN"
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
    """Finds items of an index by what people call them. rows: Rows (retrieval/index/segments.py)."""

    def __init__(self, rows):
        self.rows = rows
        self._boxes = rows.boxes()
        # Where among the items those with a path stand.
        self._positions = defaultdict(list)
        for position, path in enumerate(rows.paths()):
            self._positions[path].append(position)

    def ids(self, item: int | str | tuple[str, npt.ArrayLike | None]) -> list[int]:
        """Ids of what `item` stands for, none where nothing does.

        An item is its id (int); its path (str), which stands for all boxes of it; its name (`item_name`); or
        (path, box), box None for the whole image, which stands for exactly that.
        """
        if isinstance(item, tuple):
            path, box = item
            return self._with_box(path, box)
        if isinstance(item, str):
            # A path may itself have a `#` in it, and comes before the name of a box.
            if item in self._positions:
                return self.rows.ids[self._positions[item]].tolist()
            path, box = split_name(item)
            if box is None:
                return []
            return self._with_box(path, box)
        number = int(item)
        if number in INT64 and self.rows.has(np.array(number)):
            return [number]
        return []

    def below(self, folder: str) -> list[int]:
        """Ids of all items that lie below a folder."""
        start = os.path.join(folder, "")
        positions = []
        for path, path_positions in self._positions.items():
            if path.startswith(start):
                positions += path_positions
        return self.rows.ids[positions].tolist() if positions else []

    def _with_box(self, path: str, box: npt.ArrayLike | None) -> list[int]:
        """Ids of the items with exactly this path and box, None for the whole image."""
        wanted = np.full(4, np.nan)
        if box is not None:
            wanted = np.asarray(box, dtype=float)
        ids = []
        for position in self._positions.get(path, []):
            if np.array_equal(self._boxes[position], wanted, equal_nan=True):
                ids.append(int(self.rows.ids[position]))
        return ids
