"""A head that cuts an embedding off: what --matryoshka trains for."""

import torch
from torch import nn

from core.errors import InputError
from core.text import counted
from models.heads._registry import HEADS


@HEADS.register("first")
class First(nn.Module):
    """The first numbers of its input; it has no weights. Raises InputError for more than there are."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        if out_features > in_features:
            raise InputError(f"a layer first of {counted(out_features, 'number')}: its input has {in_features}")
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, : self.out_features]
