"""Lengths and exact cosines of few rows by NumPy alone: the very numbers that rows.py and exact.py reckon by torch.

A process that looks for one image has found it in a tenth of the time that the import of torch takes.
"""

import math
from typing import TypeVar

import numpy as np

from core.errors import InputError
from core.slices import CACHED_NUMBERS, slices_within

Table = TypeVar("Table")  # an array of NumPy's or a tensor of torch's
COSINE_BITS = 26  # of its grid: numbers of rows of length one are multiples of 2^-26 (exact.py)


def row_lengths(table: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """Euclidean length (N,) float64 of each row. Raises InputError, naming rows, where one holds NaN or infinity."""
    lengths = np.empty(len(table))
    for rows in slices_within(*table.shape, CACHED_NUMBERS):
        squares = np.square(table[rows], dtype=np.float64)
        lengths[rows] = np.sqrt(row_sums(squares))
    refuse_not_finite(np.flatnonzero(~np.isfinite(lengths)), len(table), name)
    return lengths


def row_sums(table: Table) -> Table:
    """Sums (n,) of the rows of an array or a tensor (n, D), added up in one fixed order, which no library chooses."""
    # The right half is added to the left one until a column is left.
    while table.shape[1] > 1:
        half = table.shape[1] // 2
        odd = table[:, 2 * half :]
        table = table[:, :half] + table[:, half : 2 * half]
        table[:, : odd.shape[1]] += odd
    return table[:, 0]


def refuse_not_finite(rows: np.ndarray, count: int, name: str = "embeddings") -> None:
    """Raise InputError if there are `rows` (M,), of `count`, that hold NaN or infinity."""
    if len(rows):
        raise InputError(f"{len(rows)} of {count} {name} are NaN or infinite, first in rows {rows[:5].tolist()}")


def on_grid(table: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows (n, D) of length one, float64, as whole multiples of the grid; a row of zeros stays one."""
    divisors = np.where(lengths > 0, lengths, math.inf)
    return np.rint(table * (2.0**COSINE_BITS / divisors)[:, None])


def exact_cosines(queries: np.ndarray, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Exact cosines (Q, n) float32 of queries (Q, D) with rows (m, D), both on the grid, of which each has `places`
    (Q, n) of its own."""
    # Sums of such products are exact in whichever order a library takes them. Adding zero turns -0 into 0.
    sums = np.matmul(rows[places], queries[:, :, None])[:, :, 0]
    return (sums * 2.0 ** (-2 * COSINE_BITS) + 0.0).astype(np.float32)


def best_scored(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k greatest scores of each row, (Q, n) both, equal ones by the smaller id."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
