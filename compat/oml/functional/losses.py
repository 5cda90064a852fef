"""What the losses are made of."""

import torch

from compat.oml.losses._reductions import REDUCTIONS, reduced
from core.errors import unknown


def get_reduced(tensor: torch.Tensor, reduction: str) -> torch.Tensor:
    """A tensor's mean, its sum, or itself."""
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    return reduced(tensor, reduction)


def surrogate_precision(
    distances: torch.Tensor, mask_gt: torch.Tensor, k: int, t1: float, t2: float, reduction: str = "mean"
) -> torch.Tensor:
    """The smooth precision at k, whose complement is SurrogatePrecision, of distances (B, G) and which are right.

    A column's rank is the sum of sigmoid((its distance - another's) / t2), its hit sigmoid((k - rank) / t1). It holds
    all pairs of columns at once; the loss itself does not (losses/surrogate_precision.py).
    """
    ranks = ((distances[:, :, None] - distances[:, None, :]) / t2).sigmoid().sum(2)
    hits = ((k - ranks) / t1).sigmoid() * mask_gt
    return get_reduced(hits.sum(1) / mask_gt.sum(1).clamp(max=k), reduction)


__all__ = ["get_reduced", "surrogate_precision"]
