"""A list that stays on the disk: columns that are mapped, and of which only what is asked for is read.

A folder LIST.columns, which data/pack.py writes: a card, `columns.json`, and a folder for each part of the list,
`train` and `validation`, or `all` where rows have no split. A column is a file of plain little-endian numbers; one of
texts is two, the UTF-8 of all of them and where each ends.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.errors import InputError
from core.files import read_json
from core.items import is_text
from core.slices import slices_of
from core.text import counted
from data.formats.csv import SPLITS
from data.records import COLUMNS, Records
from data.vocabulary import Vocabulary

SUFFIX = ".columns"
CARD = "columns.json"
FORMAT = 1
ALL = "all"  # the part of a list whose rows have no split
MOST_IN_MEMORY = 10_000_000  # rows
INSPECTED = 1_000  # rows of a list whose images are looked at before work begins
CHUNK = 2**16  # rows that are texts in memory at a time
# Columns by the names of Records: of texts; of texts that repeat, as codes; of numbers.
TEXTS = ("paths", "texts")
CODED = ("categories", "sequences")
PLAIN = {"is_query": "|b1", "is_gallery": "|b1", "boxes": "<f8"}


class StoredTexts:
    """A column of N texts on the disk, which is indexed as an array (N,) of str is.

    content: (B,) uint8, UTF-8, one text after the other. ends: (N,) int64, where each ends. folder: what stands before
    a path that is neither whole nor a text itself; None for no paths.
    """

    ndim = 1

    def __init__(self, content: np.ndarray, ends: np.ndarray, folder: str | None = None):
        self.content = content
        self.ends = ends
        self.folder = folder

    @property
    def shape(self) -> tuple[int]:
        return (len(self.ends),)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> str | np.ndarray:
        if isinstance(index, int | np.integer):
            row = int(index)
            if not -len(self) <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            return self._text(row % len(self))
        return np.array([self._text(row) for row in _rows_of(index, len(self)).tolist()], np.str_)

    def __iter__(self) -> Iterator[str]:
        for block in slices_of(len(self), CHUNK):
            yield from self[block].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:]

    def tolist(self) -> list[str]:
        """All of them, in memory."""
        return list(self)

    def _text(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        text = self.content[start : int(self.ends[row])].tobytes().decode(errors="surrogateescape")
        if self.folder is None or is_text(text):
            return text
        return os.path.join(self.folder, text)


class StoredCodes:
    """A column of N values on the disk, of which few are different, indexed as an array (N,) of them is.

    values: (C,), the different ones. codes: (N,) integers, which of them each is.
    """

    ndim = 1

    def __init__(self, values: np.ndarray, codes: np.ndarray):
        self.values = values
        self.codes = codes

    @property
    def shape(self) -> tuple[int]:
        return (len(self.codes),)

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> Any:
        return self.values[self.codes[index]]

    def __iter__(self) -> Iterator[Any]:
        for block in slices_of(len(self), CHUNK):
            yield from self[block]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:]

    def __eq__(self, other: object) -> np.ndarray:
        return self[:] == other

    def __ne__(self, other: object) -> np.ndarray:
        return self[:] != other

    __hash__ = None

    def tolist(self) -> list:
        """All of them, in memory."""
        return self[:].tolist()


def _rows_of(index: Any, count: int) -> np.ndarray:
    """The rows that an array's index (a slice, a range, a mask, integers) means, (n,) int64."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    index = np.asarray(index)
    if index.dtype == bool:
        return np.flatnonzero(index)
    if not len(index):
        return np.zeros(0, np.int64)
    if index.min() < -count or index.max() >= count:
        raise IndexError(f"rows {index.min()} to {index.max()} of {count}")
    return index % count


@dataclass(frozen=True)
class StoredVocabulary(Vocabulary):
    """The vocabulary of a list on the disk: made when that was, none of it is copied.

    stored_rows: as `rows`.
    """

    stored_rows: np.ndarray
    is_stored: ClassVar[bool] = True

    @property
    def rows(self) -> np.ndarray:
        """The N images, those of a label side by side, in the order of the list, (N,) integers."""
        return self.stored_rows


@dataclass(frozen=True)
class StoredRecords(Records):
    """Records whose columns are on the disk. What is taken of it is in memory.

    card: what the list's card says of this part. stored_vocabulary: what there is in place of counting labels.
    """

    card: dict[str, Any] | None = None
    stored_vocabulary: StoredVocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return self.stored_vocabulary

    @cached_property
    def modalities(self) -> frozenset[str]:
        return frozenset(self.card["modalities"])

    @property
    def inspected(self) -> range:
        return range(0, len(self), max(1, len(self) // INSPECTED))

    def location(self, index: int) -> str:
        """Where image `index` stands: the list, and its row in the part, the first being 0."""
        return f"{self.source}: row {index}"

    def take(self, indices: np.ndarray | list[int] | slice | range) -> Records:
        """The list of only these images (indices, a mask or a slice), in memory."""
        rows = _rows_of(indices, len(self))
        taken = {}
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None:
                taken[name] = np.ascontiguousarray(column[rows])
        return Records(self.source, **taken, notes=self.notes, names=self.names)


def is_stored_list(path: Path) -> bool:
    """Whether a path is called as a list on the disk, whether or not it is one."""
    return path.suffix.lower() == SUFFIX


def open_stored(file: Path, folder: Path, split: str | None, rows: slice | None = None) -> Records:
    """A part of a list on the disk: that of `split` where rows have one, else all.

    folder: where its paths start. rows: those of the part that are taken. A train list without `rows` stays on the
    disk; what is tested or embedded is read into memory, which it has to fit into. Raises InputError for what is no
    such list, or not whole, and for a part that it has not.
    """
    card = _read_card(file)
    names = _parts_of(card, split, file)
    parts = [_open_part(file, name, card["parts"][name], folder) for name in names]
    if split == "train" and rows is None:
        return parts[0]
    counts = [len(part) for part in parts]
    wanted = range(sum(counts))[rows or slice(None)]
    if len(wanted) > MOST_IN_MEMORY:
        raise InputError(
            f"{str(file)!r}: {len(wanted):,} rows are too many to be tested on, or embedded, at a time "
            f"({MOST_IN_MEMORY:,} are the most); name a part of them, as {file.name}#rows=0:{MOST_IN_MEMORY}"
        )
    if not len(wanted):
        raise InputError(
            f"{str(file)!r} has {counted(sum(counts), 'row', ',')}; #rows={rows.start or 0}:{rows.stop} names none of "
            "them"
        )
    if len(parts) == 1:
        return parts[0].take(wanted)
    return _joined([part.take(slice(None)) for part in parts]).take(wanted)


def _joined(lists: list[Records]) -> Records:
    """One list of the rows of several parts of one."""
    columns = {}
    for name in COLUMNS:
        if getattr(lists[0], name) is not None:
            columns[name] = np.concatenate([getattr(part, name) for part in lists])
    return Records(lists[0].source, **columns)


def _read_card(file: Path) -> dict[str, Any]:
    """Raises InputError for what is no list on the disk, and for one of another format."""
    try:
        card = read_json(file / CARD)
        if card["format"] != FORMAT:
            raise InputError(f"{str(file)!r} is of the format {card['format']}, not {FORMAT}; pack its list anew")
        if not all(isinstance(part["rows"], int) and part["rows"] > 0 for part in card["parts"].values()):
            raise TypeError("a part without rows")
    except FileNotFoundError:
        raise InputError(
            f"{str(file)!r} is no list on the disk: it has no {CARD}; python reader.py pack makes one"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(file / CARD)!r} is damaged: {error}") from None
    return card


def _parts_of(card: dict[str, Any], split: str | None, file: Path) -> list[str]:
    """The parts that a split is in."""
    parts = list(card["parts"])
    if split not in SPLITS or parts == [ALL]:
        return parts
    if SPLITS[split] not in parts:
        raise InputError(f"{str(file)!r}: no row in it has the split {SPLITS[split]}")
    return [SPLITS[split]]


def _open_part(file: Path, name: str, card: dict[str, Any], folder: Path) -> StoredRecords:
    """Map all columns of a part. Raises InputError for a file that is missing or too short."""
    columns = _Columns(file / name, card["rows"])
    try:
        files = card["files"]
        arrays = {
            column: columns.texts(column, str(folder) if column == "paths" else None)
            for column in TEXTS
            if column in files
        }
        for column in CODED:
            if column in files:
                values = columns.texts(f"{column}_values", None, card["values"][column])
                arrays[column] = StoredCodes(values[:], columns.plain(column, files[column]))
        for column in PLAIN:
            if column in files:
                arrays[column] = columns.plain(column, files[column])
        codes = columns.plain("codes", files["codes"])
        count = card["labels"]
        if "labels" in files:
            labels = columns.plain("labels", files["labels"], count)
        else:
            labels = columns.texts("label_texts", None, count)[:]
        counts = columns.plain("counts", files["counts"], count)
        rows = columns.plain("rows", files["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(file / CARD)!r} is damaged: {error}") from None
    # All are queries and in the gallery where nothing else is said: one value that stands for N.
    everyone = np.broadcast_to(np.bool_(True), (card["rows"],))
    flags = {flag: arrays.pop(flag, everyone) for flag in ("is_query", "is_gallery")}
    vocabulary = StoredVocabulary(labels, codes, counts, rows)
    return StoredRecords(
        str(file), labels=StoredCodes(labels, codes), **flags, **arrays, card=card, stored_vocabulary=vocabulary
    )


class _Columns:
    """The files of a part, mapped."""

    def __init__(self, folder: Path, rows: int):
        self.folder = folder
        self.rows = rows

    def plain(self, name: str, kind: str, count: int | None = None) -> np.ndarray:
        """A column of numbers, (count,) or, of boxes, (count, 4)."""
        count = self.rows if count is None else count
        shape = (count, 4) if name == "boxes" else (count,)
        return self._map(name, np.dtype(kind), shape)

    def texts(self, name: str, folder: str | None, count: int | None = None) -> StoredTexts:
        """A column of texts."""
        ends = self.plain(f"{name}_ends", "<i8", count)
        total = int(ends[-1]) if len(ends) else 0
        return StoredTexts(self._map(name, np.dtype("u1"), (total,)), ends, folder)

    def _map(self, name: str, kind: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / name
        size = int(np.prod(shape)) * kind.itemsize
        try:
            found = path.stat().st_size
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
        if found != size:
            raise InputError(
                f"{str(path)!r} has {counted(found, 'byte', ',')}, not {size:,}: it was cut short; pack the list anew"
            )
        # An empty file cannot be mapped.
        if not size:
            return np.zeros(shape, kind)
        with open(path, "rb") as file:
            # Copied on write, so that torch takes it as its own; nobody writes.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        # Rows are read in random order: what lies around one is not read from the disk with it.
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, kind).reshape(shape)
