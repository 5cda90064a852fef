"""The items of an index on disk: segments of rows, each written once, and a list of the ids deleted from them.

A segment is a folder of plain arrays: ids (N,) int64 rising, lengths (N,) float64 (row_lengths of the embeddings),
paths (UTF-8, one after the other) with path_ends (N,), boxes (N, 4) float64 (NaN row: the whole image), label_codes
(N,) int64 with the distinct labels as JSON in labels.json (retrieval/index/items.py: LabelColumn), and embeddings
(N, D) float32, mapped when they are needed. Where items have categories, category_codes (N,) and categories.json tell
them as those of labels do. Segments of indexes of format 1 have labels (N,) int64 instead, -1 for unknown, and no
boxes.
"""

import weakref
from collections.abc import Collection, Container, Iterator
from pathlib import Path

import numpy as np

from core.arrays import read_npy, write_npy
from core.errors import InputError
from core.files import read_json, sync, synced, write_json
from core.slices import CACHED_NUMBERS, slices_of, slices_within
from core.text import counted
from retrieval.index.items import CATEGORY, LABEL, UNKNOWN, Items, LabelColumn, wrong_boxes
from retrieval.plain import row_lengths

FACTS_AT_ONCE = 100_000  # paths whose bytes are summed at a time
OLD_UNKNOWN = -1  # the label of an item of format 1 that nobody knows


class Segment:
    """One segment as it stands on the disk. Its files stay open, so that it can be read even after it was replaced.

    `live` (M,) int64: the rows that are not deleted; `ids` (N,), `labels` and `categories`, a LabelColumn each, are of
    all rows. has_categories: whether it has a column of them; else they are unknown.
    """

    def __init__(self, folder: Path, width: int, deleted: np.ndarray, has_categories: bool = False):
        self.folder = Path(folder)
        self.width = width
        # Told by its files and not by the card: a changed index of format 1 keeps the segments that it has.
        is_old = (self.folder / "labels.npy").exists()
        codes = self._column("labels" if is_old else "label_codes")
        self.ids = self._column("ids")
        self.lengths = self._column("lengths")
        self._path_ends = self._column("path_ends")
        self._text = read_npy(self.folder / "paths.npy", "r")
        self._boxes = None
        if not is_old:
            self._boxes = read_npy(self.folder / "boxes.npy", "r")
        embeddings = read_npy(self.folder / "embeddings.npy", "r")

        # The files may be anybody's, and what does not fit together would be read as something else.
        self._check_columns(embeddings, codes)
        self._check_paths()
        self._check_boxes()
        if is_old:
            self.labels = _old_labels(codes)
        else:
            self.labels = self._read_labels(codes, LABEL)
        self.categories = LabelColumn.of(None, len(self.ids))
        if has_categories:
            category_codes = self._column("category_codes")
            self._check_columns(embeddings, category_codes)
            self.categories = self._read_labels(category_codes, CATEGORY)

        # Mapped anew for each block, from an open file, so that the memory of a block goes with it.
        self._start = embeddings.offset
        self._file = open(self.folder / "embeddings.npy", "rb")
        weakref.finalize(self, self._file.close)
        self.live = np.flatnonzero(~np.isin(self.ids, deleted))

    def _column(self, name: str) -> np.ndarray:
        return read_npy(self.folder / f"{name}.npy")

    def _read_labels(self, codes: np.ndarray, nouns: tuple[str, str]) -> LabelColumn:
        file = self.folder / f"{nouns[1]}.json"
        return LabelColumn.checked(codes, read_json(file), str(file), nouns)

    def _check_columns(self, embeddings: np.ndarray, codes: np.ndarray) -> None:
        """Raise InputError for columns that are not of one length, or of another type or width."""
        columns = (self.ids, codes, self.lengths, self._path_ends)
        shapes = {column.shape for column in columns}
        kinds = "".join(column.dtype.kind for column in columns)
        is_whole = (
            {embeddings.shape[:1]} == shapes
            and embeddings.shape[1:] == (self.width,)
            and kinds + embeddings.dtype.str == "iifi<f4"
        )
        if not is_whole:
            raise InputError(
                f"{str(self.folder)!r} is damaged: embeddings {embeddings.shape} {embeddings.dtype} for width "
                f"{self.width}, columns {sorted(shapes)}"
            )

    def _check_paths(self) -> None:
        """Raise InputError where paths do not end one behind the other."""
        total = 0
        if len(self._path_ends):
            total = int(self._path_ends[-1])
        kind, shape = self._text.dtype.str, self._text.shape
        if (kind, shape) != ("|u1", (total,)) or (np.diff(self._path_ends, prepend=0) < 0).any():
            raise InputError(f"{str(self.folder)!r} is damaged: paths {shape} {kind} do not end where they should")

    def _check_boxes(self) -> None:
        """Raise InputError for boxes that are none. They are mapped, and looked at block by block."""
        if self._boxes is None:
            return
        kind, shape = self._boxes.dtype.str, self._boxes.shape
        if (kind, shape) != ("<f8", (len(self.ids), 4)):
            raise InputError(
                f"{str(self.folder)!r} is damaged: boxes {shape} {kind} for {counted(len(self.ids), 'item')}"
            )
        for block in slices_within(len(self.ids), 4, CACHED_NUMBERS):
            wrong = wrong_boxes(self._boxes[block])
            if len(wrong):
                box = self._boxes[block][wrong[0]].tolist()
                raise InputError(
                    f"{str(self.folder)!r} is damaged: the box {box} is not 0 <= left < right, 0 <= top < bottom, nor "
                    "all NaN"
                )

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """The boxes of some rows, (n, 4) float64."""
        if self._boxes is None:
            return np.full((len(rows), 4), np.nan)
        return np.array(self._boxes[rows])

    def embeddings(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop, (n, D) float32, mapped: they leave memory with the last reference to them."""
        if stop is None:
            stop = len(self.ids)
        offset = self._start + 4 * self.width * start
        return np.memmap(self._file, np.float32, "c", offset, (stop - start, self.width))

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows."""
        ends = self._path_ends[rows]
        starts = np.where(rows > 0, self._path_ends[rows - 1], 0)
        # Of a memoryview, whose slices cost a quarter of an array's.
        text = memoryview(self._text)
        paths = []
        for start, end in zip(starts.tolist(), ends.tolist()):
            paths.append(str(text[start:end], "utf-8", "surrogateescape"))
        return paths

    def rows_of_paths(self, wanted: Collection[str]) -> np.ndarray:
        """The live rows (m,), rising, whose path is one of `wanted`.

        Only paths of which both the length and the sum of all bytes are those of a wanted one are read as text.
        """
        facts = set()
        for path in wanted:
            content = path.encode(errors="surrogateescape")
            facts.add((len(content), sum(content)))
        lengths, sums = np.array(sorted(facts), np.int64).reshape(-1, 2).T
        chosen = [np.zeros(0, np.int64)]
        for block in slices_of(len(self.live), FACTS_AT_ONCE):
            rows = self.live[block]
            ends = self._path_ends[rows]
            starts = np.where(rows > 0, self._path_ends[rows - 1], 0)
            first, last = starts[0], ends[-1]
            totals = np.cumsum(self._text[first:last], dtype=np.int64)
            totals = np.concatenate([[0], totals])
            byte_sums = totals[ends - first] - totals[starts - first]
            may_be = rows[np.isin(ends - starts, lengths) & np.isin(byte_sums, sums)]
            is_wanted = np.array([path in wanted for path in self.paths(may_be)], dtype=bool)
            chosen.append(may_be[is_wanted])
        return np.concatenate(chosen)


def _old_labels(labels: np.ndarray) -> LabelColumn:
    """The LabelColumn of labels (N,) int64 of format 1."""
    is_known = labels != OLD_UNKNOWN
    codes = np.full(len(labels), UNKNOWN)
    table, codes[is_known] = np.unique(labels[is_known], return_inverse=True)
    return LabelColumn(codes, table.tolist())


class Rows:
    """The live items of some segments, ordered by id: `ids` (N,) int64, `label_column` and `category_column` of them.

    `deleted` (M,) int64: ids that still stand in the segments but are no items any more. `label_names`: what labels are
    called, {label as text: name}. categorised: those of the segments that have categories. Raises InputError for
    damaged files, FileNotFoundError where one is missing.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        width: int,
        deleted: np.ndarray,
        label_names: dict[str, str] | None = None,
        categorised: Container[str] = (),
    ):
        self.width = width
        self.deleted = deleted
        self.label_names = label_names or {}
        self.segments = [Segment(folder / name, width, deleted, name in categorised) for name in names]
        none = np.zeros(0, np.int64)
        stored = np.concatenate([none, *(segment.ids for segment in self.segments)])
        if deleted.dtype.kind != "i" or deleted.ndim != 1 or (np.diff(stored, prepend=-1) <= 0).any():
            raise InputError(f"{str(folder)!r} is damaged: ids {stored[:3].tolist()}... have to rise from 0 on")
        self.ids = np.concatenate([none, *(segment.ids[segment.live] for segment in self.segments)])
        self.label_column = LabelColumn.joined([segment.labels.take(segment.live) for segment in self.segments])
        self.category_column = LabelColumn.joined([segment.categories.take(segment.live) for segment in self.segments])
        # Where among the items each segment's first one stands.
        self._starts = np.cumsum([0, *(len(segment.live) for segment in self.segments)])

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Which of `ids` (any shape) are items, bool of that shape."""
        if not len(self):
            return np.zeros(ids.shape, dtype=bool)
        nearest_position = np.searchsorted(self.ids, ids).clip(max=len(self) - 1)
        return self.ids[nearest_position] == ids

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Where `ids` (any shape) stand among the items."""
        return np.searchsorted(self.ids, ids)

    def take(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (n, D) float32 and lengths (n,) float64 of items, in the order of `ids` (n,)."""
        embeddings = np.empty((len(ids), self.width), np.float32)
        lengths = np.empty(len(ids))
        for segment, chosen, rows in self._by_segment(ids):
            embeddings[chosen] = segment.embeddings()[rows]
            lengths[chosen] = segment.lengths[rows]
        return embeddings, lengths

    def normalized(self, ids: np.ndarray) -> np.ndarray:
        """Embeddings (n, D) of items, scaled to length one."""
        embeddings, lengths = self.take(ids)
        return normalized(embeddings, lengths)

    def paths(self, ids: np.ndarray | None = None) -> list[str]:
        """The paths of items in the order of `ids` (n,), or of all."""
        if ids is None:
            ids = self.ids
        paths = [""] * len(ids)
        for segment, chosen, rows in self._by_segment(ids):
            for position, path in zip(chosen.tolist(), segment.paths(rows)):
                paths[position] = path
        return paths

    def ids_of_paths(self, wanted: Collection[str]) -> np.ndarray:
        """Ids (m,), rising, of the items whose path is one of `wanted`: a set, where there are many."""
        ids = [segment.ids[segment.rows_of_paths(wanted)] for segment in self.segments]
        return np.concatenate([np.zeros(0, np.int64), *ids])

    def boxes(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The boxes of items in the order of `ids` (n,), or of all, (n, 4) float64, NaN rows for whole images."""
        if ids is None:
            ids = self.ids
        boxes = np.empty((len(ids), 4))
        for segment, chosen, rows in self._by_segment(ids):
            boxes[chosen] = segment.boxes(rows)
        return boxes

    def labels(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The labels of items in the shape of `ids`, or of all, an array of int, str and None (unknown)."""
        if ids is None:
            return self.label_column.values()
        return self.label_column.values(self.positions(ids))

    def categories(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The categories of items in the shape of `ids`, or of all, an array of int, str and None (unknown)."""
        if ids is None:
            return self.category_column.values()
        return self.category_column.values(self.positions(ids))

    def _by_segment(self, ids: np.ndarray) -> Iterator[tuple[Segment, np.ndarray, np.ndarray]]:
        """(segment, which of the ids, their rows in it) for each segment that holds some of them."""
        positions = self.positions(ids)
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            segment = self.segments[number]
            chosen = np.flatnonzero(numbers == number)
            yield segment, chosen, segment.live[positions[chosen] - self._starts[number]]

    def blocks(self, memory: int) -> Iterator[tuple[Segment, slice, np.ndarray]]:
        """Yield (segment, slice of its rows, those of them that live (m,), counted from the slice's start)."""
        for segment in self.segments:
            for block in slices_within(len(segment.ids), 4 * self.width, memory):
                first, last = np.searchsorted(segment.live, [block.start, block.stop])
                if first < last:
                    yield segment, block, segment.live[first:last] - block.start

    def normalized_blocks(self, memory: int, after: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (ids (m,), embeddings (m, D) float32 scaled to length one) of the items with ids above `after`."""
        for segment, block, live in self.blocks(memory):
            ids = segment.ids[block][live]
            is_wanted = ids > after
            live = live[is_wanted]
            if len(live):
                embeddings = segment.embeddings(block.start, block.stop)[live]
                yield ids[is_wanted], normalized(embeddings, segment.lengths[block][live])


def normalized(embeddings: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows (n, D) divided by their lengths (n,), float32; rows of length 0 stay as they are."""
    return (embeddings / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def write_segment(folder: Path, kept: Rows, ids: np.ndarray, new: Items, memory: int) -> bool:
    """Write a segment: the items of `kept` (Rows), then new ones with `ids` (n,); all is on the disk when this returns.

    Returns whether it has categories. n may be 0. memory: bytes to copy at a time. Raises OSError where it cannot be
    written.
    """
    folder.mkdir()
    lengths = [segment.lengths[segment.live] for segment in kept.segments]
    if len(new):
        lengths.append(row_lengths(new.embeddings))
    ids = np.concatenate([kept.ids, ids])
    labels = LabelColumn.joined([kept.label_column, new.labels])
    categories = LabelColumn.joined([kept.category_column, new.categories])
    texts = [path.encode(errors="surrogateescape") for path in [*kept.paths(), *new.paths]]
    columns = {
        "ids": ids,
        "lengths": np.concatenate(lengths),
        "boxes": np.concatenate([kept.boxes(), new.boxes]),
        "label_codes": labels.codes,
        "path_ends": np.cumsum([len(text) for text in texts]),
        "paths": np.frombuffer(b"".join(texts), np.uint8),
    }
    has_categories = bool(categories.table)
    if has_categories:
        columns["category_codes"] = categories.codes
        write_json(folder / "categories.json", categories.table)
    for name, column in columns.items():
        write_npy(folder / f"{name}.npy", column)
    write_json(folder / "labels.json", labels.table)
    # Embeddings, which may not fit into memory, are copied block by block behind the header of a .npy file.
    with synced(folder / "embeddings.npy") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), kept.width)}
        np.lib.format.write_array_header_1_0(file, header)
        for segment, block, live in kept.blocks(memory):
            file.write(segment.embeddings(block.start, block.stop)[live].tobytes())
        for block in slices_within(len(new), 4 * kept.width, memory):
            file.write(new.embeddings[block].tobytes())
    sync(folder)
    return has_categories
