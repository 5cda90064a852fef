"""Margin loss (Wu et al., Sampling Matters, 2017, arXiv 1706.07567, equation 5) with one boundary for all labels."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, euclidean
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("margin", stage="pair", batch="pk", memory=True, mined="pairs")
class MarginLoss(nn.Module):
    """Mean of the terms above zero among max(0, d_p - beta + margin) and max(0, beta - d_n + margin) of all triplets.

    d are Euclidean distances of unit vectors, a triplet being a row, a positive and a negative of it. So a positive
    pair counts as often as its row has negatives, and the other way round.

    Options:
        margin: how far positives should be within the boundary, and negatives beyond it
        beta: the boundary, a distance (0 to 2)

    `logs` after a call: active_share (of pairs, each counted as often as above), mean squared positive_distance and
    negative_distance.
    """

    def __init__(self, margin: float = 0.2, beta: float = 1.2) -> None:
        super().__init__()
        check_option("margin", margin, 0)
        check_option("beta", beta, 0)
        self.margin = margin
        self.beta = beta
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        *,
        reference: Reference | None = None,
        mined: Pairs | None = None,
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        pairs = PairRows(embeddings, labels, reference, mined, distances=True)
        total, _, triplets, active = pairs.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / (2 * triplets.sum()).clamp_min(1), **pairs.mean_scores()}
        return total / active.sum().clamp_min(1)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, ...]:
        """Of a block's rows (m,): sums over their triplets; their slopes; numbers of triplets, of terms above zero."""
        distances = euclidean(block.scores)
        pull = (distances - (self.beta - self.margin)).relu_().mul_(block.positives)
        push = (self.beta + self.margin - distances).relu_().mul_(block.negatives)
        positives, negatives = block.counts
        values = negatives * pull.sum(1) + positives * push.sum(1)
        pulled = pull.sign_()
        pushed = push.sign_()
        active = negatives * pulled.sum(1) + positives * pushed.sum(1)
        slopes = pulled.mul_(negatives[:, None]).sub_(pushed.mul_(positives[:, None])).div_(2 * distances)
        return values, slopes, positives * negatives, active
