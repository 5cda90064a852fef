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

SPARSE = 4  # one in so many items is wanted at most where they are copied out of their segments
FEW = 16  # queries for which rows are multiplied as they are
MORE = 16  # candidates beyond k: rounding may have changed the order of the last ones
MODERATE = (2.0**-60, 2.0**60)  # lengths between which no product of float32 overflows or loses small numbers


@torch.no_grad()
def nearest(
    rows: Rows, queries: torch.Tensor, k: int, memory: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest items of each query, nearest first: ids (Q, k) int64, exact cosines (Q, k) float32.

    queries: (Q, D) float32. Equal cosines go by the smaller id. k is at most the number of items. among: ids (n,) of
    the items that are looked at, rising, or None for all. memory: bytes beside queries and results.
    """
    # Products of few numbers a row take more memory than the rows.
    if len(queries) > min(FEW, rows.width):
        return _nearest_of_many(rows, queries, k, memory, among)
    ids, scores, is_sure = _nearest_of_few(rows, queries, k, memory, among)
    unsure = np.flatnonzero(~is_sure)
    if len(unsure):
        ids[unsure], scores[unsure] = _nearest_of_many(rows, queries[torch.from_numpy(unsure)], k, memory, among)
    return ids, scores


def _nearest_of_few(
    rows: Rows, queries: torch.Tensor, k: int, memory: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `nearest`, and (Q,) bool: of which queries that is proven.

    A block's rows are multiplied as they are, and each product is divided by its row's length: to scale the rows first
    would take as long again as all else. Some more than k of the products are kept, and scored exactly; none of the
    others is among the k nearest where the best of them is further below the k-th than rounding takes it.
    """
    lengths = row_lengths(queries, "query embeddings").numpy()
    units = torch.from_numpy(normalized(queries.numpy(), lengths))
    values = torch.full((len(queries), 0), -math.inf)
    ids = torch.zeros((len(queries), 0), dtype=torch.int64)
    dropped = torch.full((len(queries),), -math.inf)
    kept = k + MORE
    for stored_ids, stored, stored_lengths, live in _blocks(rows, memory // 8, among):
        lengths = torch.from_numpy(stored_lengths)
        # A row of zeros has no direction, and the cosine 0 with everything.
        divisors = torch.where(lengths > 0, lengths, math.inf).float()
        products = torch.mm(torch.from_numpy(stored), units.T) / divisors[:, None]
        if not MODERATE[0] < divisors.min().item() or not lengths.max().item() < MODERATE[1]:
            products.fill_(math.nan)
        # Of NaN, which comes first, nothing is sure.
        found, places = products[torch.from_numpy(live)].T.topk(min(kept + 1, len(live)), dim=1)
        found_ids = torch.from_numpy(stored_ids[live])[places]
        if found.shape[1] > kept:
            dropped = dropped.maximum(found[:, kept])
        values, places = torch.cat([values, found[:, :kept]], dim=1).sort(dim=1, descending=True)
        ids = torch.cat([ids, found_ids[:, :kept]], dim=1).gather(1, places)
        if values.shape[1] > kept:
            dropped = dropped.maximum(values[:, kept])
            values, ids = values[:, :kept], ids[:, :kept]
    is_sure = dropped < values[:, k - 1] - 2 * rounding(rows.width)
    return *best_of(rows, queries, ids.numpy(), k, among), is_sure.numpy()


def rounding(width: int) -> float:
    """How far a float32 product over its row's length may be from the exact cosine.

    A sum of D terms is off by at most D units in the last place, whatever their order (arXiv 1306.0571, eq. 3.5), four
    times that for products that truncate, as in retrieval/scores.py; the scaled query, the length, the quotient and the
    grid of the exact score (retrieval/exact.py) are off by less than 16 units together.
    """
    return (4 * width + 16) * 2.0**-24


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
