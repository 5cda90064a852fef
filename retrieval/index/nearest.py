"""The nearest items of an index, exactly: its memory-mapped segments are searched one block at a time."""

import math
from collections.abc import Iterator

import numpy as np

from core.slices import CACHED_NUMBERS, slices_within
from retrieval.index.segments import Rows, normalized
from retrieval.plain import best_scored, exact_cosines, on_grid, row_lengths
from retrieval.unscaled import block_bytes, fits, likely_nearest

NOWHERE = -1  # the id of what is no item
SPARSE = 4  # one in so many items is wanted at most where they are copied out of their segments


def nearest(
    rows: Rows, queries: np.ndarray, k: int, memory: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest items of each query, nearest first: ids (Q, k) int64, exact cosines (Q, k) float32.

    queries: (Q, D) float32. Equal cosines go by the smaller id. k is at most the number of items. among: ids (n,) of
    the items that are looked at, rising, or None for all. memory: bytes beside queries and results.
    """
    if not fits(len(queries), rows.width, k, memory):
        return _nearest_of_many(rows, queries, k, memory, among)
    ids, scores, is_sure = _nearest_of_few(rows, queries, k, memory, among)
    unsure = np.flatnonzero(~is_sure)
    if len(unsure):
        ids[unsure], scores[unsure] = _nearest_of_many(rows, queries[unsure], k, memory, among)
    return ids, scores


def _nearest_of_few(
    rows: Rows, queries: np.ndarray, k: int, memory: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `nearest`, and (Q,) bool: of which queries that is proven. A block's rows are multiplied as they are."""
    units = normalized(queries, row_lengths(queries, "query embeddings"))
    blocks = _blocks(rows, block_bytes(len(queries), rows.width, memory), among)
    ids, _, is_sure = likely_nearest(units, blocks, k)
    return *best_of(rows, queries, ids, k, among), is_sure


def _nearest_of_many(
    rows: Rows, queries: np.ndarray, k: int, memory: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    # Here and not above: few queries have found their items before torch is imported.
    from retrieval.index.many import nearest_of_many

    return nearest_of_many(queries, _blocks(rows, memory // 8, among), k, memory)


def _blocks(
    rows: Rows, memory: int, among: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (ids (m,), embeddings (m, D), lengths (m,), those of these rows that are looked at (n,)), in `memory`."""
    if among is not None and SPARSE * len(among) < len(rows):
        # Few items are read one by one, and those between them are not touched.
        for part in slices_within(len(among), 4 * rows.width, memory):
            ids = among[part]
            yield ids, *rows.take(ids), np.arange(len(ids))
        return
    for segment, block, live in rows.blocks(memory):
        ids = segment.ids[block]
        if among is not None:
            live = live[np.isin(ids[live], among, assume_unique=True)]
        if len(live):
            yield ids, segment.embeddings(block.start, block.stop), segment.lengths[block], live


def best_of(
    rows: Rows, queries: np.ndarray, candidates: np.ndarray, k: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest among each query's own candidates, ids (Q, C): ids (Q, k), exact cosines (Q, k) as of `nearest`.

    Candidates that are no items, such as -1, or none of those with the ids `among`, are left out; where fewer than k
    remain, ids end in -1 and cosines in -infinity.
    """
    missing = max(0, k - candidates.shape[1])
    candidates = np.pad(candidates, ((0, 0), (0, missing)), constant_values=NOWHERE)
    known = rows.has(candidates)
    if among is not None:
        known &= np.isin(candidates, among)
    ids = []
    scores = []
    for block in slices_within(len(candidates), candidates.shape[1] * rows.width, CACHED_NUMBERS):
        # Each item is read once, however many queries it is a candidate of; any item stands in for what is none.
        wanted = np.where(known[block], candidates[block], rows.ids[0])
        distinct, places = np.unique(wanted, return_inverse=True)
        asking = on_grid(queries[block], row_lengths(queries[block], "query embeddings"))
        cosines = exact_cosines(asking, on_grid(*rows.take(distinct)), places.reshape(wanted.shape))
        cosines[~known[block]] = -math.inf
        best_ids, best_scores = best_scored(np.where(known[block], candidates[block], NOWHERE), cosines, k)
        ids.append(best_ids)
        scores.append(best_scores)
    return np.concatenate(ids), np.concatenate(scores)
