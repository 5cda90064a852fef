"""A layer that gives every feature the same mean and spread."""

from torch import nn

from models.heads._registry import HEADS


@HEADS.register("layer_norm", keeps_width=True)
class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(var + 1e-5) over the numbers of a row, times a weight, plus a bias, which are learned.

    Ba et al., 2016, arXiv 1607.06450, eq. 4. In front of the embedding layer (`layer_norm,linear`): Teh et al., 2020,
    ProxyNCA++, arXiv 2004.01113, §3.5.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features)
