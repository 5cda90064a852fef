"""The "eml" loss of PaddlePaddle's metric learning models (after Huang et al., 2012, arXiv 1212.6094)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._pair_distances import LogMeanExps, pair_counts
from losses._precision import full_precision
from losses._registry import LOSSES

BETA = 1e5


@LOSSES.register("eml", stage="pair", batch="pk", memory=True)
class EmlLoss(nn.Module):
    """Mean over rows of log(1 + beta * mean_p exp(d_p) * mean_n exp(-d_n)) / log(1 + beta), with beta = 1e5.

    d_p and d_n are squared Euclidean distances of the raw embeddings (not scaled to unit length) from the row to its
    positives and negatives. Taken as a softplus of log-mean-exps, the formula holds at every distance; Paddle's code
    approximates it where max d_p - min d_n exceeds its `thresh` of 20, and the two differ by less than 1e-8.
    A row whose label occurs once has no positive: it serves as a negative of others and has no term of its own.

    Where distances are in the hundreds (wide pooled features), shrinking everything towards one point is the quickest
    way down and ends in a collapse at loss 1: scale the features until the loss starts near or below 1.

    Options:
        feature_scale: factor on the embeddings before distances are taken

    `logs` after a call: active_share (rows whose farthest positive lies beyond their nearest negative), mean squared
    positive_distance and negative_distance.
    """

    def __init__(self, feature_scale: float = 1.0) -> None:
        super().__init__()
        check_option("feature_scale", feature_scale, 0, above=True)
        self.feature_scale = feature_scale
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, *, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,), whose pairs reach into the reference, if there is one.

        Raises InputError without a positive or negative pair.
        """
        if reference is not None:
            reference = reference._replace(embeddings=self.feature_scale * reference.embeddings)
        positives, negatives = pair_counts(labels, reference)
        farness, nearness, farthest, nearest, positive_sum, negative_sum = LogMeanExps.apply(
            self.feature_scale * embeddings, labels, positives, negatives, reference
        )
        losses = F.softplus(math.log(BETA) + farness + nearness) / math.log1p(BETA)
        paired = positives > 0
        self.logs = {
            "active_share": ((farthest > nearest) & paired).sum() / paired.sum(),
            "positive_distance": positive_sum.sum() / positives.sum(),
            "negative_distance": negative_sum.sum() / negatives.sum(),
        }
        return torch.where(paired, losses, 0).sum() / paired.sum()
