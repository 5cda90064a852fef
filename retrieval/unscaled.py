"""Which rows of a table may be the nearest of some queries, from products of the rows as they are, read once.

To scale rows to length one writes all of them and reads them again, which for few queries takes longer than all else.
Here each product is divided by its row's length. Some more than k products are kept for each query; none of the other
rows is among its k nearest where the last that is kept is farther below the k-th than rounding takes a product.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from core.slices import slices_within
from retrieval.blocks import true_float32
from retrieval.candidates import above_floor

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


@torch.no_grad()
def likely_nearest(
    units: torch.Tensor, blocks: Iterable[Block], k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids (Q, C) int64 and products (Q, C) float32 of some more than k rows, and (Q,) bool: of which it is proven.

    units: (Q, D) float32, queries scaled to length one. blocks: (ids (n,), rows (n, D) float32, their lengths (n,), and
    which of them can be found (m,)). Proven: all of the k nearest are among these, however exact cosines order them.
    C is less than k where there are fewer rows.
    """
    best = _Best(len(units), k + MORE)
    for ids, rows, lengths, live in blocks:
        divisors = torch.from_numpy(lengths)
        # A row of zeros has no direction, and the cosine 0 with everything.
        divisors = torch.where(divisors > 0, divisors, math.inf)
        if not MODERATE[0] < divisors.min().item() or not lengths.max() < MODERATE[1]:
            return best.ids, best.values, torch.zeros(len(units), dtype=torch.bool)
        products = _products(units, torch.from_numpy(rows)).div_(divisors.float())
        if len(live) < len(ids):
            products, ids = products[:, torch.from_numpy(live)], ids[live]
        best.add(products, torch.from_numpy(ids))
    values = best.values
    if values.shape[1] < k + MORE:
        return best.ids, values, torch.ones(len(units), dtype=torch.bool)
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
        self.values = torch.full((queries, 0), -math.inf)
        self.ids = torch.zeros((queries, 0), dtype=torch.int64)

    def add(self, products: torch.Tensor, ids: torch.Tensor) -> None:
        """Learn of products (Q, n) of rows with these ids (n,)."""
        everyone = torch.arange(len(products))
        if self.values.shape[1] == self.kept:
            row, column, value = above_floor(products, 1, self.values[:, -1])
            counts = row.bincount(minlength=len(products))
            asking = counts.nonzero().flatten()
            most = int(counts.max())
            if most < self.kept:
                # Few rows are nearer than those that are kept: they alone are sorted in.
                slot = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
                few = torch.full((len(products), most), -math.inf)
                few_ids = torch.zeros((len(products), most), dtype=torch.int64)
                few[row, slot] = value
                few_ids[row, slot] = ids[column]
                self._merge(asking, few[asking], few_ids[asking])
                return
        value, column = products.topk(min(self.kept, products.shape[1]), dim=1)
        self._merge(everyone, value, ids[column])

    def _merge(self, queries: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> None:
        """Keep the best of what the queries with these numbers (m,) have and of others (m, n)."""
        values = torch.cat([self.values[queries], values], dim=1)
        ids = torch.cat([self.ids[queries], ids], dim=1)
        values, chosen = values.topk(min(self.kept, values.shape[1]), dim=1)
        ids = ids.gather(1, chosen)
        if len(queries) == len(self.values):
            self.values, self.ids = values, ids
        else:
            self.values[queries], self.ids[queries] = values, ids


def _products(units: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(Q, n) float32 of queries (Q, D) and rows (n, D)."""
    with true_float32(), torch.autocast("cpu", enabled=False):
        if len(units) <= LONG_FIRST:
            return torch.mm(rows, units.T).T.contiguous()
        return torch.mm(units, rows.T)
