"""Rows scaled to length one, and what a row without a direction becomes."""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from losses._threads import one_thread_if_small

SHORTEST = 1e-12  # a row shorter than this has no direction


def normalise(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, D) scaled to length one; a row shorter than 1e-12 becomes zero and gets no gradient (never NaN)."""
    return UnitRows.apply(rows)


def lengths(rows: torch.Tensor) -> torch.Tensor:
    """Divisors (N,) that scale rows (N, D) to length one: their lengths, or infinity below 1e-12."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return F.threshold(norms, SHORTEST, math.inf)


class UnitRows(torch.autograd.Function):
    """`normalise`, with a backward pass of its own that takes half the time."""

    @staticmethod
    def forward(ctx, rows):
        sizes = lengths(rows)[:, None]
        units = rows / sizes
        ctx.save_for_backward(units, sizes)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        units, sizes = ctx.saved_tensors
        with one_thread_if_small(units.device, len(units) ** 2):
            return through_scaling(upstream.clone(), units, sizes)


def through_scaling(slopes: torch.Tensor, units: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Slopes (N, D) by unit vectors, as those by the rows that were divided by sizes (N, 1). Writes over them."""
    # A row's length changes nothing, so nothing pulls along the row.
    along = torch.linalg.vecdot(slopes, units)[:, None]
    return slopes.addcmul_(along, units, value=-1).div_(sizes)
