"""mean, sum or none of the losses of rows or triplets."""

from collections.abc import Callable

import torch

from compat.oml._errors import require

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(reduction: str) -> None:
    """Raise RefusedAssertion for an unknown one."""
    require(reduction in REDUCTIONS, f"reduction is {reduction!r}; it is one of {', '.join(REDUCTIONS)}")


def reduced(losses: torch.Tensor, reduction: str) -> torch.Tensor:
    """Losses (n,) as they are, their sum or their mean."""
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    return losses


def reduced_mean(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    labels: torch.Tensor,
    reduction: str,
) -> torch.Tensor:
    """What a reduction makes of a loss that gives the mean over rows which do not depend on each other.

    none calls it row by row.
    """
    if reduction == "none":
        rows = [loss(features[row : row + 1], labels[row : row + 1]) for row in range(len(labels))]
        # What the loss says of the batch is of all of it.
        with torch.no_grad():
            loss(features, labels)
        return torch.stack(rows)
    if reduction == "sum":
        return loss(features, labels) * len(labels)
    return loss(features, labels)
