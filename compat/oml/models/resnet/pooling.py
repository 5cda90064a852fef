"""The generalised mean of a feature map."""

import torch

from compat.oml._errors import require
from models.pooling import Pooling


class GEM(Pooling):
    """Maps to vectors: the mean of p-th powers, to the power 1 / p. p stays what it is."""

    def __init__(self, p: float, eps: float = 1e-6) -> None:
        require(eps == 1e-6, f"eps is {eps}; what lies below 1e-6 is raised to that")
        super().__init__("gem", float(p))
        self.p.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors (B, C) of maps (B, C, h, w)."""
        return super().forward(x)


__all__ = ["GEM"]
