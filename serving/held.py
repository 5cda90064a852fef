"""The items of an index in memory, scaled to length one, so that a search is one matrix product and a proof."""

import math

import numpy as np
import torch

from core.slices import CACHED_NUMBERS, slices_within
from retrieval.candidates import NOWHERE
from retrieval.index.nearest import best_of
from retrieval.index.segments import Rows, Segment, normalized
from retrieval.plain import row_lengths
from retrieval.unscaled import MORE, rounding

# Bytes that may be held: two million items of 512 numbers. A larger index is searched where it lies on the disk.
MOST_HELD = 2**32


class HeldRows:
    """The items of one generation of an index, in memory.

    Segments never change, so that those of the generation before are taken over as they are. Answers are those of
    `retrieval.index.nearest.nearest`: the product of float32 rows only says which items can be among the nearest, and
    these are then scored exactly.
    """

    def __init__(self, rows: Rows, before: "HeldRows | None" = None):
        held = {}
        if before is not None:
            held = before._segments
        self._rows = rows
        self._segments: dict[str, torch.Tensor] = {}
        for segment in rows.segments:
            name = segment.folder.name
            if name in held:
                self._segments[name] = held[name]
            else:
                self._segments[name] = _scaled(segment)

    @staticmethod
    def fits(rows: Rows) -> bool:
        """Whether so many items may be held."""
        return 4 * rows.width * sum(len(segment.ids) for segment in rows.segments) <= MOST_HELD

    @torch.no_grad()
    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each query, nearest first: ids (Q, k) int64 and exact cosines (Q, k) float32.

        queries: (Q, D) float32. allowed: (N,) bool, which of the items may be found, None for all; k is at most their
        number.
        """
        scaled = torch.from_numpy(normalized(queries, row_lengths(queries, "query embeddings")))
        scores = []
        for segment in self._rows.segments:
            # The long side stands first: for few queries that is several times as fast as the other way round.
            products = torch.mm(self._segments[segment.folder.name], scaled.T)
            if len(segment.live) < len(products):
                products = products[torch.from_numpy(segment.live)]
            scores.append(products)
        fast = torch.cat(scores).T.contiguous()
        if allowed is not None:
            fast[:, torch.from_numpy(~allowed)] = -math.inf
        return best_of(self._rows, queries, self._candidates(fast, k), k)

    def _candidates(self, fast: torch.Tensor, k: int) -> np.ndarray:
        """Ids (Q, C) of all items that may be among the k nearest, -1 for none. fast: (Q, N) float32."""
        count = min(k + MORE, fast.shape[1])
        values, positions = fast.topk(count, dim=1)
        floor = values[:, k - 1] - 2 * rounding(self._rows.width)
        ids = list(np.where(torch.isinf(values).numpy(), NOWHERE, self._rows.ids[positions.numpy()]))
        # Where even the last of the candidates is as near as rounding can tell, more may be.
        for query in torch.nonzero(values[:, -1] >= floor).flatten().tolist():
            ids[query] = self._rows.ids[torch.nonzero(fast[query] >= floor[query]).flatten().numpy()]
        most = max(map(len, ids))
        padded = np.full((len(ids), most), NOWHERE)
        for row, candidates in zip(padded, ids):
            row[: len(candidates)] = candidates
        return padded


def _scaled(segment: Segment) -> torch.Tensor:
    """All rows of a segment (N, D) float32, scaled to length one, block by block."""
    count = len(segment.ids)
    held = np.empty((count, segment.width), np.float32)
    for block in slices_within(count, segment.width, CACHED_NUMBERS):
        held[block] = normalized(segment.embeddings(block.start, block.stop), segment.lengths[block])
    return torch.from_numpy(held)
