"""Circle loss (Sun et al., 2020, arXiv 2002.10857, equations 6 and 8)."""

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, log_sum_exp, mean_above_zero
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("circle", stage="pair", batch="pk", memory=True, mined="pairs")
class CircleLoss(nn.Module):
    """Mean over rows of log(1 + sum_p exp(-gamma a_p (s_p - 1 + m)) sum_n exp(gamma a_n (s_n - m))).

    s are cosines; their weights a_p = max(0, 1 + m - s_p) and a_n = max(0, s_n + m) take no gradient. The mean is over
    the rows whose loss is above zero; a row without a positive or without a negative has none.

    Options:
        m: relaxation: positives should exceed 1 - m, negatives stay below m
        gamma: scale of the scores

    `logs` after a call: active_share (rows on the wrong side of the decision boundary), mean positive_similarity and
    negative_similarity.
    """

    def __init__(self, m: float = 0.4, gamma: float = 80.0) -> None:
        super().__init__()
        check_option("m", m, 0, 1)
        check_option("gamma", gamma, 0, above=True)
        self.m = m
        self.gamma = gamma
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
        pairs = PairRows(embeddings, labels, reference, mined)
        total, values, violated = pairs.sums(self.row_terms)
        self.logs = {"active_share": violated.float().mean(), **pairs.mean_scores()}
        return mean_above_zero(total, values)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses (m,) of a block's rows, their slopes, and whether each is on the wrong side of the boundary."""
        pull_weights = (1 + self.m - block.scores).relu_().mul_(self.gamma)
        push_weights = (block.scores + self.m).relu_().mul_(self.gamma)
        pull, pull_shares = log_sum_exp((1 - self.m - block.scores).mul_(pull_weights), block.positives)
        push, push_shares = log_sum_exp((block.scores - self.m).mul_(push_weights), block.negatives)
        both = pull + push  # -infinity for a row without a positive or without a negative
        slopes = push_shares.mul_(push_weights).sub_(pull_shares.mul_(pull_weights)).mul_(both.sigmoid()[:, None])
        return F.softplus(both), slopes, both > 0
