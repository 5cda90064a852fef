"""The nearest items of an index through codes, which stand in a folder of each segment and go with it."""

import contextlib
import mmap
import shutil
from dataclasses import replace

import numpy as np
import torch

from retrieval.coded_search import Part, nearest_by_codes
from retrieval.codes import CARD, Codes
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows, Segment
from retrieval.plain import row_lengths

FOLDER = "codes"


def write_codes(rows: Rows, kind: str) -> None:
    """Write the codes of those segments that have none yet; a segment is written once, and so are its codes."""
    for segment in rows.segments:
        folder = segment.folder / FOLDER
        if (folder / CARD).exists():
            continue
        # Without a card it is what a process that died has left.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        Codes.write(folder, segment.embeddings(), segment.lengths, kind)


class CodedRows:
    """The items of an index with the codes of their segments, which have to be there (FileNotFoundError)."""

    def __init__(self, rows: Rows, kind: str):
        self.rows = rows
        self.parts = []
        self.starts = np.cumsum([0, *(len(segment.ids) for segment in rows.segments)])
        for segment, start in zip(rows.segments, self.starts.tolist()):
            codes = Codes.open(segment.folder / FOLDER, len(segment.ids), rows.width, kind)
            live = None
            if len(segment.live) < len(segment.ids):
                live = _mask(segment, segment.live)
            self.parts.append(Part(codes, start, live))

    def nearest(
        self, queries: np.ndarray, k: int, memory: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What nearest.py finds, to the bit: ids (Q, k) int64, exact cosines (Q, k) float32; queries (Q, D) float32.

        among: as there. Raises InputError for codes that are not those of the embeddings.
        """

        def in_float32(some: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            ids, scores = nearest(self.rows, some.numpy(), k, memory, among)
            return self._positions(ids), scores

        parts = self.parts
        if among is not None:
            parts = []
            for segment, part in zip(self.rows.segments, self.parts):
                rows = segment.live[np.isin(segment.ids[segment.live], among, assume_unique=True)]
                parts.append(replace(part, live=_mask(segment, rows)))
        lengths = row_lengths(queries, "query embeddings")
        asking = torch.from_numpy(queries)
        positions, scores = nearest_by_codes(parts, asking, lengths, k, memory, self._fetch, in_float32)
        return self._ids(positions), scores

    def _fetch(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (n, D) float32 and lengths (n,) at some positions, which rise."""
        embeddings = np.empty((len(positions), self.rows.width), np.float32)
        lengths = np.empty(len(positions))
        bounds = np.searchsorted(positions, self.starts)
        for segment, start, first, last in zip(self.rows.segments, self.starts, bounds, bounds[1:]):
            if first < last:
                chosen = positions[first:last] - start
                embeddings[first:last] = _scattered(segment)[chosen]
                lengths[first:last] = segment.lengths[chosen]
        return embeddings, lengths

    def _ids(self, positions: np.ndarray) -> np.ndarray:
        """The ids of items at some positions (any shape)."""
        ids = np.empty(positions.shape, np.int64)
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            ids[chosen] = self.rows.segments[number].ids[positions[chosen] - self.starts[number]]
        return ids

    def _positions(self, ids: np.ndarray) -> np.ndarray:
        """Where the segments hold items of some ids (any shape)."""
        stored = np.concatenate([segment.ids for segment in self.rows.segments])
        return np.searchsorted(stored, ids)


def _mask(segment: Segment, rows: np.ndarray) -> torch.Tensor:
    """(N,) bool, those rows of a segment."""
    mask = torch.zeros(len(segment.ids), dtype=torch.bool)
    mask[torch.from_numpy(rows)] = True
    return mask


def _scattered(segment: Segment) -> np.ndarray:
    """A segment's embeddings, mapped to be read here and there: nothing is read ahead."""
    embeddings = segment.embeddings()
    if hasattr(mmap, "MADV_RANDOM"):  # not on Windows
        embeddings._mmap.madvise(mmap.MADV_RANDOM)
    return embeddings
