"""A head with one hidden layer."""

from torch import nn

from models.heads._registry import HEADS


@HEADS.register("mlp")
class Mlp(nn.Sequential):
    """W2 gelu(W1 x + b1) + b2, the hidden layer being as wide as the input."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, in_features), nn.GELU(), nn.Linear(in_features, out_features))
        self.in_features = in_features
        self.out_features = out_features
