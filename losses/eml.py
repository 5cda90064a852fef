"""The "eml" loss of PaddlePaddle's metric learning models (after Huang et al., 2012, arXiv 1212.6094)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._pair_rows import Block, PairRows, log_sum_exp_and_top
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
        if self.feature_scale != 1:
            embeddings = self.feature_scale * embeddings
            if reference is not None:
                reference = reference._replace(embeddings=self.feature_scale * reference.embeddings)
        pairs = PairRows(embeddings, labels, reference, unit=False, distances=True)
        total, _, paired, active = pairs.sums(self.row_terms)
        count = paired.sum()
        self.logs = {"active_share": active.sum() / count, **pairs.mean_scores()}
        return total / count

    def row_terms(self, block: Block) -> tuple[torch.Tensor, ...]:
        """Losses (m,) of a block's rows; their slopes; which rows have a positive; which are active."""
        positives, negatives = block.counts
        farness, far_shares, farthest = log_sum_exp_and_top(block.scores.clone(), block.positives)
        nearness, near_shares, nearest = log_sum_exp_and_top(-block.scores, block.negatives)

        # Logarithms of means from those of sums; -infinity for a row without a positive.
        exponents = math.log(BETA) + farness + nearness - (positives * negatives).log()
        exponents.masked_fill_(positives == 0, -torch.inf)
        slopes = far_shares.sub_(near_shares).mul_(exponents.sigmoid()[:, None] / math.log1p(BETA))
        return F.softplus(exponents) / math.log1p(BETA), slopes, positives > 0, farthest + nearest > 0
