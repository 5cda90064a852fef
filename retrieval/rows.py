"""Rows of embeddings before they are scored: their lengths, the frame around them, and pieces to take them in."""

import math
from typing import NamedTuple

import torch

from core.errors import InputError

PIECE_NUMBERS = 2**18  # rows are prepared in pieces of so many numbers


class Frame(NamedTuple):
    """What squared Euclidean distances are reckoned in: rows less `centre` (D,) float64, over `scale`, a power of 2."""

    centre: torch.Tensor
    scale: float

    @classmethod
    def of_all(cls, table, highest):
        """That of the rows of all ranks, `table` (n, D) being one's own, n may be 0; highest: see shards.Shard."""
        centre = middle([table], highest)
        longest = torch.cat([centre.new_zeros(1), lengths_of(table, centre)]).max()
        return cls(centre, power_of_two(highest(longest).item()))


def middle(tables, highest=None):
    """The middle of the box around all rows, (D,) float64, as float32 can hold it: it does not depend on any order."""
    ends = tables[0].new_full((2, tables[0].shape[1]), -math.inf)  # the greatest numbers, and the least ones negated
    for table in tables:
        if len(table):
            ends = ends.maximum(torch.stack([table.amax(0), -table.amin(0)]))
    most, least = (highest(ends) if highest else ends).double()
    return ((most - least) / 2).float().double()


def power_of_two(length):
    """The least power of 2 that is no smaller than a length; 1 for none."""
    return 2.0 ** math.ceil(math.log2(length)) if length > 0 else 1.0


def row_lengths(table, name="embeddings"):
    """Euclidean length (N,) float64 of each row. Raises InputError, naming rows, where one holds NaN or infinity."""
    found = lengths_of(table)
    refuse_broken((~found.isfinite()).nonzero().flatten(), len(table), name)
    return found


def refuse_broken(rows, number, name="embeddings"):
    """Raise InputError if there are `rows` (M,), of so many, that hold NaN or infinity."""
    if len(rows):
        raise InputError(f"{len(rows)} of {number} {name} are NaN or infinite, first in rows {rows[:5].tolist()}")


def lengths_of(table, centre=None):
    """Euclidean length (N,) float64 of each row less `centre`, summed in one fixed order on every device."""
    found = torch.empty(len(table), dtype=torch.float64, device=table.device)
    for part in pieces(*table.shape):
        numbers = table[part].double()
        numbers = (numbers if centre is None else numbers - centre).square()
        while numbers.shape[1] > 1:
            half = numbers.shape[1] // 2
            odd = numbers[:, 2 * half :]
            numbers = numbers[:, :half] + numbers[:, half : 2 * half]
            numbers[:, : odd.shape[1]] += odd
        found[part] = numbers[:, 0].sqrt()
    return found


def pieces(rows, width, numbers=PIECE_NUMBERS):
    """Slices that cut so many rows of `width` numbers into pieces of so many numbers or fewer."""
    step = max(1, numbers // width)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
