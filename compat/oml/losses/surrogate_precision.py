"""OML's differentiable precision."""

import torch

from compat.oml._errors import RefusedAssertion, raised_as, require
from core.errors import InputError
from core.text import counted
from losses.surrogate_precision import SurrogatePrecisionLoss


class SurrogatePrecision(SurrogatePrecisionLoss):
    """1 - a smooth precision at k (losses/surrogate_precision.py)."""

    criterion_name = "surrogate_precision"

    def __init__(
        self, k: int = 5, temperature1: float = 1.0, temperature2: float = 0.01, reduction: str = "mean"
    ) -> None:
        with raised_as(RefusedAssertion):
            super().__init__(k=k, temperature1=temperature1, temperature2=temperature2)
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction is {reduction!r}; of this loss, which keeps no row apart, it is mean or sum")
        self.reduction = reduction

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of features (B, D) and labels (B,)."""
        require(
            len(features) == len(labels),
            f"{counted(len(features), 'row')} of features, {counted(len(labels), 'label')}",
        )
        loss = super().forward(features, labels)
        if self.reduction == "sum":
            # OML takes its sum of precisions from 1.
            return 1 - (1 - loss) * len(labels)
        return loss


__all__ = ["SurrogatePrecision"]
