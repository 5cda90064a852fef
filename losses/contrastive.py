"""Stand-in."""

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._pair_distances import pair_counts
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("contrastive", stage="pair", batch="pk")
class ContrastiveLoss(nn.Module):
    """Stand-in.

    Options:
        margin: squared distance beyond which a negative pair costs nothing
        eps: added to what a negative pair is short of the margin
    """

    def __init__(self, margin: float = 1.0, eps: float = 1e-9) -> None:
        super().__init__()
        check_option("margin", margin, 0)
        self.margin = margin
        self.eps = eps
        self.logs = {}

    def of_pairs(self, embedding1, embedding2, target):
        squared = (embedding2 - embedding1).square().sum(1)
        short = F.relu(self.margin - squared + self.eps)
        target = target.to(squared.dtype)
        return (target * squared + (1 - target) * short.square()).mean()

    @full_precision
    def forward(self, embeddings, labels):
        pair_counts(labels)
        i, j = torch.triu_indices(len(labels), len(labels), 1)
        self.logs = {"active_share": torch.ones(())}
        return self.of_pairs(embeddings[i], embeddings[j], labels[i] == labels[j])
