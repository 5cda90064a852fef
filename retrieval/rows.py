"""Rows of embeddings before they are scored: their lengths, and the frame around them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from core.slices import numbers_at_once, slices_within
from retrieval.plain import refuse_not_finite, row_sums


class Frame(NamedTuple):
    """What squared Euclidean distances are reckoned in: rows less `centre` (D,) float64, over `scale`, a power of 2."""

    centre: torch.Tensor
    scale: float

    @classmethod
    def of_all(cls, table: torch.Tensor, all_reduce_max: Callable[[torch.Tensor], torch.Tensor]) -> "Frame":
        """That of the rows of all ranks, `table` (n, D) being this rank's; n may be 0.

        all_reduce_max: see retrieval.sharded.GalleryShard.
        """
        centre = box_centre([table], all_reduce_max)
        longest = torch.cat([centre.new_zeros(1), euclidean_lengths(table, centre)]).max()
        return cls(centre, power_of_two(all_reduce_max(longest).item()))


def box_centre(
    tables: list[torch.Tensor], all_reduce_max: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """The middle of the box around all rows, (D,) float64, as float32 can hold it: it does not depend on any order."""
    # The greatest numbers, and the least ones negated, so that one maximum over the ranks settles both.
    ends = tables[0].new_full((2, tables[0].shape[1]), -math.inf)
    for table in tables:
        if len(table):
            ends = ends.maximum(torch.stack([table.amax(0), -table.amin(0)]))
    if all_reduce_max is not None:
        ends = all_reduce_max(ends)
    greatest, negated_least = ends.double()
    return ((greatest - negated_least) / 2).float().double()


def power_of_two(length: float) -> float:
    """The least power of 2 that is no smaller than a length; 1 for none."""
    if length > 0:
        return 2.0 ** math.ceil(math.log2(length))
    return 1.0


def row_lengths(table: torch.Tensor, name: str = "embeddings") -> torch.Tensor:
    """Euclidean length (N,) float64 of each row. Raises InputError, naming rows, where one holds NaN or infinity."""
    lengths = euclidean_lengths(table)
    refuse_not_finite((~lengths.isfinite()).nonzero().flatten(), len(table), name)
    return lengths


def euclidean_lengths(table: torch.Tensor, centre: torch.Tensor | None = None) -> torch.Tensor:
    """Euclidean length (N,) float64 of each row less `centre` (D,), summed in one fixed order on every device."""
    lengths = torch.empty(len(table), dtype=torch.float64, device=table.device)
    for rows in slices_within(*table.shape, numbers_at_once(table.device.type)):
        numbers = table[rows].double()
        if centre is not None:
            numbers = numbers - centre
        lengths[rows] = _roots(row_sums(numbers.square()))
    return lengths


def _roots(squares: torch.Tensor) -> torch.Tensor:
    """Square roots (n,) float64, each the nearest number to the true one, as IEEE 754 has it.

    NumPy's and those of GPUs are; MKL, by which torch takes roots on some processors, may be off by the last bit.
    """
    if squares.device.type != "cpu":
        return squares.sqrt()
    return torch.from_numpy(np.sqrt(squares.detach().numpy()))
