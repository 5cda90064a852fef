"""The plain embedding layer."""

import torch
from torch import nn

from models.heads._registry import HEADS


@HEADS.register("linear")
class Linear(nn.Linear):
    """x W^T + b."""

    def prepared(self, features: torch.Tensor) -> torch.Tensor:
        """What the matrix is multiplied by: features (B, in_features) as they are."""
        return features
