"""OML's ArcFace losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from compat.oml._errors import RefusedAssertion, raised_as, require
from compat.oml.losses._reductions import check_reduction, reduced_mean
from core.errors import InputError
from losses.arcmargin import ArcMarginLoss
from losses.mlp_arcmargin import MlpArcMarginLoss

ROOM = 4096  # labels of a loss that was not told how many there are


class _Named:
    """OML's options of a loss over classes: what they are called here, and what it says of the last batch."""

    criterion_name = "arcface"

    def _keep(self, reduction: str, label2category: Mapping[Any, Any] | None) -> None:
        check_reduction(reduction)
        self.reduction = reduction
        self.label2category = None
        if label2category is None:
            return
        absent = [label for label in range(self.num_classes) if label not in label2category]
        require(not absent, f"label2category has no category of label {(absent or [0])[0]}")
        names = [label2category[label] for label in range(self.num_classes)]
        _, codes = np.unique(np.asarray(names), return_inverse=True)
        self.label2category = torch.from_numpy(codes.reshape(-1))
        # How frequent labels are is of no interest here.
        self.set_labels(torch.ones(self.num_classes), self.label2category)

    @property
    def criterion(self) -> nn.Module:
        """What is taken of logits and labels at the end, but for smoothed labels."""
        return nn.CrossEntropyLoss(reduction=self.reduction)

    @property
    def last_logs(self) -> dict[str, Any]:
        if "acc1" not in self.logs:
            return {}
        return {"accuracy": self.logs["acc1"]}


class ArcFaceLoss(_Named, ArcMarginLoss):
    """arcmargin (losses/arcmargin.py) with OML's options and defaults.

    Sizes that are left open come with the batches: in_features with the first; of num_classes, those labels take part
    that batches have shown, and there is room for ROOM.
    """

    def __init__(
        self,
        in_features: int | None = None,
        num_classes: int | None = None,
        m: float = 0.5,
        s: float = 64,
        smoothing_epsilon: float | None = 0,
        label2category: Mapping[Any, Any] | None = None,
        reduction: str = "mean",
    ) -> None:
        if num_classes is None and label2category is not None:
            num_classes = len(label2category)
        with raised_as(RefusedAssertion):
            super().__init__(in_features or 1, num_classes or 1, **_options(m, s, smoothing_epsilon, label2category))
        self._keep(reduction, label2category)
        self._is_open = in_features is None
        self._grows = num_classes is None
        if self._grows:
            # A plain name for the rows that take part; the parameter is all of the room.
            del self.weight
            self.room = nn.Parameter(torch.empty(ROOM, in_features or 1))
            nn.init.xavier_uniform_(self.room)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of x (B, D) and labels y (B,)."""
        if self._is_open:
            self._widen(x)
        if self._grows:
            self._grow(y)
        with raised_as(RefusedAssertion):
            return reduced_mean(super().forward, x, y, self.reduction)

    def _widen(self, features: torch.Tensor) -> None:
        """Draw the weights anew, as wide as the features; an optimiser goes on with the same parameter."""
        weight = self.room if self._grows else self.weight
        weight.data = torch.empty(len(weight), features.shape[1], device=features.device)
        nn.init.xavier_uniform_(weight)
        self._is_open = False

    def _grow(self, labels: torch.Tensor) -> None:
        """Let the labels up to the highest so far take part."""
        highest = int(labels.max())
        if highest >= ROOM:
            raise InputError(
                f"label {highest}: without num_classes there is room for {ROOM}; give the number of labels"
            )
        self.num_classes = max(self.num_classes, highest + 1)
        self.weight = self.room[: self.num_classes]


class ArcFaceLossWithMLP(_Named, MlpArcMarginLoss):
    """mlp_arcmargin (losses/mlp_arcmargin.py) with OML's options and defaults."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        mlp_features: Sequence[int],
        m: float = 0.5,
        s: float = 64,
        smoothing_epsilon: float | None = 0,
        label2category: Mapping[Any, Any] | None = None,
        reduction: str = "mean",
    ) -> None:
        options = _options(m, s, smoothing_epsilon, label2category)
        with raised_as(RefusedAssertion):
            super().__init__(in_features, num_classes, mlp_features=tuple(mlp_features), **options)
        self._keep(reduction, label2category)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of x (B, D) and labels y (B,)."""
        with raised_as(RefusedAssertion):
            return reduced_mean(super().forward, x, y, self.reduction)


def _options(
    m: float, s: float, smoothing_epsilon: float | None, label2category: Mapping[Any, Any] | None
) -> dict[str, Any]:
    epsilon = smoothing_epsilon or 0.0
    require(0 <= epsilon < 1, f"smoothing_epsilon is {epsilon}; it is 0 or more and below 1")
    return {
        "arc_scale": s,
        "arc_margin": m,
        "label_smoothing": epsilon,
        "smooth_within_category": bool(epsilon and label2category is not None),
    }


__all__ = ["ArcFaceLoss", "ArcFaceLossWithMLP"]
