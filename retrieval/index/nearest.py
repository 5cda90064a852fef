"""The nearest items of an index, exactly: its memory-mapped segments are searched one block at a time."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from core.slices import slices_within
from retrieval.candidates import NOWHERE
from retrieval.index.segments import Rows, normalized
from retrieval.query_gallery import QueryGallery
from retrieval.rows import CACHED_NUMBERS, row_lengths
from retrieval.scores import Scores
from retrieval.topk import search_in_parts
from retrieval.unscaled import block_bytes, fits, likely_nearest

SPARSE = 4  # one in so many items is wanted at most where they are copied out of their segments


@torch.no_grad()
def nearest(
    rows: Rows, queries: torch.Tensor, k: int, memory: int, among: np.ndarray | None = None
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
        ids[unsure], scores[unsure] = _nearest_of_many(rows, queries[torch.from_numpy(unsure)], k, memory, among)
    return ids, scores


def _nearest_of_few(
    rows: Rows, queries: torch.Tensor, k: int, memory: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `nearest`, and (Q,) bool: of which queries that is proven. A block's rows are multiplied as they are."""
    lengths = row_lengths(queries, "query embeddings").numpy()
    units = torch.from_numpy(normalized(queries.numpy(), lengths))
    blocks = _blocks(rows, block_bytes(len(queries), rows.width, memory), among)
    ids, _, is_sure = likely_nearest(units, blocks, k)
    return *best_of(rows, queries, ids.numpy(), k, among), is_sure.numpy()


def _nearest_of_many(
    rows: Rows, queries: torch.Tensor, k: int, memory: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`: rows are scaled once for all queries."""
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for stored_ids, stored, stored_lengths, live in _blocks(rows, memory // 8, among):
        embeddings = torch.from_numpy(stored)
        lengths = torch.from_numpy(stored_lengths)
        task = replace(QueryGallery.apart(queries, embeddings), gallery_rows=torch.from_numpy(live))
        found = search_in_parts(task, k, "cosine", memory // 2, gallery_lengths=lengths)
        block_rows = torch.cat([found_rows for _, found_rows, _ in found])
        block_scores = _cosines(queries, embeddings, lengths, block_rows)
        block_ids = stored_ids[block_rows.numpy()]
        # The best so far and the block's together have the best k of both.
        ids, scores = _best(np.hstack([ids, block_ids]), np.hstack([scores, block_scores]), k)
    return ids, scores


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


@torch.no_grad()
def best_of(
    rows: Rows, queries: torch.Tensor, candidates: np.ndarray, k: int, among: np.ndarray | None = None
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
        distinct, positions = np.unique(wanted, return_inverse=True)
        embeddings, lengths = rows.take(distinct)
        cosines = _cosines(
            queries[block],
            torch.from_numpy(embeddings),
            torch.from_numpy(lengths),
            torch.from_numpy(positions).view(known[block].shape),
        )
        cosines[~known[block]] = -math.inf
        best_ids, best_scores = _best(np.where(known[block], candidates[block], NOWHERE), cosines, k)
        ids.append(best_ids)
        scores.append(best_scores)
    return np.concatenate(ids), np.concatenate(scores)


def _cosines(queries: torch.Tensor, embeddings: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """Exact cosines (Q, n) of each query with rows (Q, n) of its own in some embeddings."""
    scores = Scores(QueryGallery.apart(queries, embeddings), "cosine", lengths)
    query_of = torch.arange(len(queries)).repeat_interleave(rows.shape[1])
    return scores.exact_pairs(query_of, rows.flatten()).view(rows.shape).numpy()


def _best(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k greatest scores of each row, (Q, n) both, equal ones by the smaller id."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
