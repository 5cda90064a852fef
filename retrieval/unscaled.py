"""Which rows of a table may be the nearest of some queries, from products of the rows as they are, read once.

To scale rows to length one writes all of them and reads them again, which for few queries takes longer than all else.
Here each product is divided by its row's length. Some more than k products are kept for each query; none of the other
rows is among its k nearest where the last that is kept is farther below the k-th than rounding takes a product. All
this by NumPy: a process that asks for one image need not wait for torch.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from core.slices import slices_within

MORE = 16  # candidates beyond k: rounding may have changed the order of the last ones
MOST_QUERIES = 256  # from so many on, scaling takes less than what faster products save
MODERATE = (2.0**-60, 2.0**60)  # lengths between which no product of float32 overflows or loses small numbers
LONG_FIRST = 8  # queries up to which a product is faster with the rows as its first factor
PRODUCTS = 2**19  # numbers of a block of products, which stays in the cache, but for rows that products need to be fast
LEAST_ROWS, MOST_ROWS = 2048, 32768

Block = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def block_bytes(queries: int, width: int, memory: int) -> int:
    """Bytes of the rows, `width` float32 each, that are best multiplied by so many queries at a time, in `memory`."""
    rows = min(max(PRODUCTS // queries, LEAST_ROWS), MOST_ROWS)
    return max(4 * width, min(4 * width * rows, memory // 8))


def fits(queries: int, width: int, k: int, memory: int) -> bool:
    """Whether so many queries are better asked here, and their candidates take no more than a fourth of `memory`."""
    # Products of few numbers a row take more memory than the rows.
    return queries <= min(MOST_QUERIES, max(width, 1)) and 12 * queries * (k + MORE) <= memory // 4


def table_blocks(table: np.ndarray, lengths: np.ndarray, queries: int, memory: int) -> Iterator[Block]:
    """Blocks of a whole table (N, D) float32 with row_lengths (N,), as `likely_nearest` takes them."""
    budget = block_bytes(queries, table.shape[1], memory)
    for rows in slices_within(len(table), 4 * table.shape[1], budget):
        ids = np.arange(rows.start, rows.stop)
        yield ids, table[rows], lengths[rows], np.arange(len(ids))


def likely_nearest(units: np.ndarray, blocks: Iterable[Block], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (Q, C) int64 and products (Q, C) float32 of some more than k rows, and (Q,) bool: of which it is proven.

    units: (Q, D) float32, queries scaled to length one. blocks: (ids (n,), rows (n, D) float32, their lengths (n,), and
    which of them can be found (m,)). Proven: all of the k nearest are among these, however exact cosines order them.
    C is less than k where there are fewer rows.
    """
    best = _Best(len(units), k + MORE)
    for ids, rows, lengths, live in blocks:
        # A row of zeros has no direction, and the cosine 0 with everything.
        divisors = np.where(lengths > 0, lengths, math.inf)
        if not MODERATE[0] < divisors.min() or not lengths.max() < MODERATE[1]:
            return best.ids, best.values, np.zeros(len(units), dtype=bool)
        products = _products(units, rows)
        products /= divisors.astype(np.float32)
        if len(live) < len(ids):
            products, ids = products[:, live], ids[live]
        best.add(products, ids)
    values = best.values
    if values.shape[1] < k + MORE:
        return best.ids, values, np.ones(len(units), dtype=bool)
    return best.ids, values, values[:, -1] < values[:, k - 1] - 2 * rounding(units.shape[1])


def rounding(width: int) -> float:
    """How far a float32 product over its row's length may be from the exact cosine.

    A sum of D terms is off by at most D units in the last place, whatever their order (arXiv 1306.0571, eq. 3.5), four
    times that for products that truncate, as in retrieval/scores.py; the scaled query, the length, the quotient and the
    grid of the exact score (retrieval/exact.py) are off by less than 16 units together.
    """
    return (4 * width + 16) * 2.0**-24


class _Best:
    """Of Q queries the greatest products so far, `values` (Q, c) float32, falling, and the `ids` (Q, c) of their rows.

    What was left out is no greater than the last of them.
    """

    def __init__(self, queries: int, kept: int):
        self.kept = kept
        self.values = np.zeros((queries, 0), np.float32)
        self.ids = np.zeros((queries, 0), np.int64)

    def add(self, products: np.ndarray, ids: np.ndarray) -> None:
        """Learn of products (Q, n) of rows with these ids (n,)."""
        if self.values.shape[1] == self.kept:
            row, column = np.nonzero(products > self.values[:, -1:])
            counts = np.bincount(row, minlength=len(products))
            most = int(counts.max())
            if most < self.kept:
                # Few rows are nearer than those that are kept: they alone are sorted in.
                asking = np.flatnonzero(counts)
                slot = np.arange(len(row)) - (counts.cumsum() - counts)[row]
                few = np.full((len(products), most), -math.inf, np.float32)
                few_ids = np.zeros((len(products), most), np.int64)
                few[row, slot] = products[row, column]
                few_ids[row, slot] = ids[column]
                self._merge(asking, few[asking], few_ids[asking])
                return
        column, values = _greatest(products, self.kept)
        self._merge(np.arange(len(products)), values, ids[column])

    def _merge(self, queries: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Keep the best of what the queries with these numbers (m,) have and of others (m, n)."""
        values = np.hstack([self.values[queries], values])
        ids = np.hstack([self.ids[queries], ids])
        chosen, values = _greatest(values, self.kept)
        ids = np.take_along_axis(ids, chosen, 1)
        if len(queries) == len(self.values):
            self.values, self.ids = values, ids
        else:
            self.values[queries], self.ids[queries] = values, ids


def _greatest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the k greatest of each row (Q, n) stand, and these values, falling, (Q, k) each; all of them for n <= k."""
    chosen = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    if values.shape[1] > k:
        chosen = np.argpartition(values, -k, axis=1)[:, -k:]
    found = np.take_along_axis(values, chosen, 1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(chosen, order, 1), np.take_along_axis(found, order, 1)


def _products(units: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(Q, n) float32 of queries (Q, D) and rows (n, D)."""
    if len(units) <= LONG_FIRST:
        return np.ascontiguousarray((rows @ units.T).T)
    return units @ rows.T
