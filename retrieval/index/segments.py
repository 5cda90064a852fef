"""The items of an index on disk: segments of rows, each written once, and a list of the ids deleted from them.

A segment is a folder of plain arrays: ids (N,) int64 rising, lengths (N,) float64 (row_lengths of the embeddings),
paths (UTF-8, one after the other) with path_ends (N,), boxes (N, 4) float64 (NaN row: the whole image), label_codes
(N,) int64 with the distinct labels as JSON in labels.json (retrieval/items.py: LabelColumn), and embeddings (N, D)
float32, mapped when they are needed. Segments of indexes of format 1 have labels (N,) int64 instead, -1 for unknown,
and no boxes.
"""

import weakref
from pathlib import Path

import numpy as np
import torch

from core.errors import InputError
from core.files import read_json, read_npy, sync, synced, write_json, write_npy
from retrieval.index.items import UNKNOWN, Items, LabelColumn, wrong_boxes
from retrieval.rows import pieces, row_lengths

OLD_UNKNOWN = -1  # the label of an item of format 1 that nobody knows


class Segment:
    """One segment as it stands on the disk. Its files stay open, so that it can be read even after it was replaced.

    `live` (M,) int64: the rows that are not deleted; `ids` (N,) and `labels`, a LabelColumn, are of all rows.
    """

    def __init__(self, folder, width, deleted):
        self.folder, self.width = Path(folder), width
        # Told by its files and not by the card: a changed index of format 1 keeps the segments that it has.
        is_old = (self.folder / "labels.npy").exists()
        codes = self._column("labels" if is_old else "label_codes")
        self.ids, self.lengths = self._column("ids"), self._column("lengths")
        self._path_ends, self._text = self._column("path_ends"), read_npy(self.folder / "paths.npy", "r")
        self._boxes = None if is_old else read_npy(self.folder / "boxes.npy", "r")
        embeddings = read_npy(self.folder / "embeddings.npy", "r")
        columns = (self.ids, codes, self.lengths, self._path_ends)
        shapes, kinds = {column.shape for column in columns}, "".join(column.dtype.kind for column in columns)
        if (
            {embeddings.shape[:1]} != shapes
            or embeddings.shape[1:] != (width,)
            or kinds + embeddings.dtype.str != "iifi<f4"
        ):
            raise InputError(
                f"{str(self.folder)!r} is damaged: embeddings {embeddings.shape} {embeddings.dtype} for width {width}, "
                f"columns {sorted(shapes)}"
            )
        total = int(self._path_ends[-1]) if len(self._path_ends) else 0
        text = self._text.dtype.str, self._text.shape
        if text != ("|u1", (total,)) or (np.diff(self._path_ends, prepend=0) < 0).any():
            raise InputError(f"{str(self.folder)!r} is damaged: paths {text[1]} {text[0]} do not end where they should")
        self._check_boxes()
        self.labels = _old_labels(codes) if is_old else self._read_labels(codes)
        self._start, self._file = embeddings.offset, open(self.folder / "embeddings.npy", "rb")
        weakref.finalize(self, self._file.close)
        self.live = np.flatnonzero(~np.isin(self.ids, deleted))

    def _column(self, name):
        return read_npy(self.folder / f"{name}.npy")

    def _read_labels(self, codes):
        place = self.folder / "labels.json"
        return LabelColumn.checked(codes, read_json(place), str(place))

    def _check_boxes(self):
        """Raise InputError for boxes that are none. They are mapped, and looked at piece by piece."""
        if self._boxes is None:
            return
        kind = self._boxes.dtype.str, self._boxes.shape
        if kind != ("<f8", (len(self.ids), 4)):
            raise InputError(f"{str(self.folder)!r} is damaged: boxes {kind[1]} {kind[0]} for {len(self.ids)} items")
        for part in pieces(len(self.ids), 4):
            wrong = wrong_boxes(self._boxes[part])
            if len(wrong):
                box = self._boxes[part][wrong[0]].tolist()
                raise InputError(
                    f"{str(self.folder)!r} is damaged: the box {box} is not 0 <= left < right, 0 <= top < bottom, nor "
                    "all NaN"
                )

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """The boxes of some rows, (n, 4) float64."""
        return np.full((len(rows), 4), np.nan) if self._boxes is None else np.array(self._boxes[rows])

    def embeddings(self, start=0, stop=None):
        """Rows start to stop, (n, D) float32, mapped: they leave memory with the last reference to them."""
        stop = len(self.ids) if stop is None else stop
        place = self._start + 4 * self.width * start
        return np.memmap(self._file, np.float32, "c", place, (stop - start, self.width))

    def paths(self, rows):
        """The paths of some rows, a list of str."""
        ends = self._path_ends
        starts = np.where(rows > 0, ends[rows - 1], 0)
        return [
            self._text[start:end].tobytes().decode(errors="surrogateescape") for start, end in zip(starts, ends[rows])
        ]


def _old_labels(labels):
    """The LabelColumn of labels (N,) int64 of format 1."""
    is_known = labels != OLD_UNKNOWN
    codes = np.full(len(labels), UNKNOWN)
    table, codes[is_known] = np.unique(labels[is_known], return_inverse=True)
    return LabelColumn(codes, table.tolist())


class Rows:
    """The live items of some segments, ordered by id: `ids` (N,) int64, `label_column` a LabelColumn of them.

    `deleted` (M,) int64: ids that still stand in the segments but are no items any more. `label_names`: what labels are
    called, {label as text: name}. Raises InputError for damaged files, FileNotFoundError where one is missing.
    """

    def __init__(self, folder, names, width, deleted, label_names=None):
        self.width, self.deleted, self.label_names = width, deleted, label_names or {}
        self.segments = [Segment(folder / name, width, deleted) for name in names]
        none = np.zeros(0, np.int64)
        stored = np.concatenate([none, *(one.ids for one in self.segments)])
        if deleted.dtype.kind != "i" or deleted.ndim != 1 or (np.diff(stored, prepend=-1) <= 0).any():
            raise InputError(f"{str(folder)!r} is damaged: ids {stored[:3].tolist()}... have to rise from 0 on")
        self.ids = np.concatenate([none, *(one.ids[one.live] for one in self.segments)])
        self.label_column = LabelColumn.joined([one.labels.take(one.live) for one in self.segments])
        self._starts = np.cumsum([0, *(len(one.live) for one in self.segments)])

    def __len__(self):
        return len(self.ids)

    def has(self, ids):
        """Which of `ids` (any shape) are items, bool of that shape."""
        if not len(self):
            return np.zeros(ids.shape, dtype=bool)
        return self.ids[np.searchsorted(self.ids, ids).clip(max=len(self) - 1)] == ids

    def places(self, ids):
        """Where `ids` stand among the items."""
        return np.searchsorted(self.ids, ids)

    def take(self, ids):
        """Embeddings (n, D) float32 and lengths (n,) float64 of items, in the order of `ids` (n,)."""
        embeddings, lengths = np.empty((len(ids), self.width), np.float32), np.empty(len(ids))
        for segment, chosen, rows in self._by_segment(ids):
            embeddings[chosen], lengths[chosen] = segment.embeddings()[rows], segment.lengths[rows]
        return embeddings, lengths

    def unit(self, ids):
        """Embeddings (n, D) of items, scaled to length one."""
        return unit(*self.take(ids))

    def paths(self, ids=None):
        """The paths of items in the order of `ids` (n,), or of all, a list of str."""
        ids = self.ids if ids is None else ids
        paths = [""] * len(ids)
        for segment, chosen, rows in self._by_segment(ids):
            for place, path in zip(chosen.tolist(), segment.paths(rows)):
                paths[place] = path
        return paths

    def boxes(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The boxes of items in the order of `ids` (n,), or of all, (n, 4) float64, NaN rows for whole images."""
        ids = self.ids if ids is None else ids
        boxes = np.empty((len(ids), 4))
        for segment, chosen, rows in self._by_segment(ids):
            boxes[chosen] = segment.boxes(rows)
        return boxes

    def labels(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The labels of items in the shape of `ids`, or of all, an array of int, str and None (unknown)."""
        return self.label_column.values(slice(None) if ids is None else self.places(ids))

    def _by_segment(self, ids):
        """(segment, which of the ids, their rows in it) for each segment that holds some of them."""
        places = self.places(ids)
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(numbers).tolist():
            segment, chosen = self.segments[number], np.flatnonzero(numbers == number)
            yield segment, chosen, segment.live[places[chosen] - self._starts[number]]

    def blocks(self, memory):
        """Yield (segment, slice of its rows, those of them that live (m,), counted from the slice's start)."""
        for segment in self.segments:
            for part in parts(len(segment.ids), self.width, memory):
                first, last = np.searchsorted(segment.live, [part.start, part.stop])
                if first < last:
                    yield segment, part, segment.live[first:last] - part.start

    def unit_blocks(self, memory, after=-1):
        """Yield (ids (m,), embeddings (m, D) float32 scaled to length one) of the items with ids above `after`."""
        for segment, part, live in self.blocks(memory):
            ids = segment.ids[part][live]
            live = live[ids > after]
            if len(live):
                numbers = segment.embeddings(part.start, part.stop)[live]
                yield ids[ids > after], unit(numbers, segment.lengths[part][live])


def unit(embeddings, lengths):
    """Rows (n, D) divided by their lengths (n,), float32; rows of length 0 stay as they are."""
    return (embeddings / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def write_segment(folder: Path, kept: Rows, ids: np.ndarray, new: Items, memory: int):
    """Write a segment: the items of `kept` (Rows), then new ones with `ids` (n,); all is on the disk when this returns.

    n may be 0. memory: bytes to copy at a time. Raises OSError where it cannot be written.
    """
    folder.mkdir()
    lengths = [*(one.lengths[one.live] for one in kept.segments)]
    if len(new):
        lengths.append(row_lengths(torch.from_numpy(new.embeddings)).numpy())
    ids = np.concatenate([kept.ids, ids])
    labels = LabelColumn.joined([kept.label_column, new.labels])
    texts = [path.encode(errors="surrogateescape") for path in [*kept.paths(), *new.paths]]
    columns = {
        "ids": ids,
        "lengths": np.concatenate(lengths),
        "boxes": np.concatenate([kept.boxes(), new.boxes]),
        "label_codes": labels.codes,
        "path_ends": np.cumsum([len(text) for text in texts]),
        "paths": np.frombuffer(b"".join(texts), np.uint8),
    }
    for name, column in columns.items():
        write_npy(folder / f"{name}.npy", column)
    write_json(folder / "labels.json", labels.table)
    with synced(folder / "embeddings.npy") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), kept.width)}
        np.lib.format.write_array_header_1_0(file, header)
        for segment, part, live in kept.blocks(memory):
            file.write(segment.embeddings(part.start, part.stop)[live].tobytes())
        for part in parts(len(new), kept.width, memory):
            file.write(new.embeddings[part].tobytes())
    sync(folder)


def parts(rows, width, memory):
    """Slices of so many rows whose embeddings take `memory` bytes or less."""
    step = max(1, memory // (4 * width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
