"""A head that begins as no head at all."""

import torch
from torch import nn

from models.heads._registry import HEADS


@HEADS.register("residual")
class Residual(nn.Module):
    """x + W2 gelu(W1 x + b1) + b2 with W2 and b2 zero at first: the identity; where widths differ, a matrix behind."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        last = nn.Linear(in_features, in_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(nn.Linear(in_features, in_features), nn.GELU(), last)
        self.projection = nn.Identity()
        if out_features != in_features:
            self.projection = nn.Linear(in_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.projection(features + self.branch(features))
