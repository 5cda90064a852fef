"""A layer between what is compared and what is classified."""

from torch import nn

from models.heads._registry import HEADS


@HEADS.register("bnneck", keeps_width=True)
class BnNeck(nn.BatchNorm1d):
    """BatchNorm over the images of a batch, of which the weight learns and the shift stays 0.

    Luo et al., 2019, Bag of tricks and a strong baseline for deep person re-identification, arXiv 1903.07071, §3.5:
    without a shift the boundaries between classes go through the origin, where cosines put them.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features)
        self.bias.requires_grad_(False)
