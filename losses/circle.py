"""Circle loss (Sun et al., 2020, arXiv 2002.10857, equations 6 and 8)."""

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_distances import pair_counts
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
    negative_similarity within the batch.
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
        if mined is None:
            pair_counts(labels)
        pairs = PairRows(embeddings, labels, reference, mined)
        total, values, violated = pairs.sums(self.row_values)
        positive, negative = pairs.means()
        self.logs = {
            "active_share": violated.float().mean(),
            "positive_similarity": positive,
            "negative_similarity": negative,
        }
        return mean_above_zero(total, values)

    def row_values(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (m,) of a block's rows, and whether each is on the wrong side of the boundary."""
        fixed = block.scores.detach()
        pull = (self.gamma * (1 + self.m - fixed).relu_()) * (1 - self.m - block.scores)
        push = (self.gamma * (fixed + self.m).relu_()) * (block.scores - self.m)
        both = log_sum_exp(pull, block.positives) + log_sum_exp(push, block.negatives)
        return F.softplus(both), both.detach() > 0
