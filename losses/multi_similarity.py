"""Multi-similarity loss (Wang et al., 2019, arXiv 1904.06627, equation 9)."""

import math

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, log1p_sum_exp
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("multi_similarity", stage="pair", batch="pk", memory=True, mined="pairs")
class MultiSimilarityLoss(nn.Module):
    """Mean over rows of log(1 + sum_p exp(-alpha (s_p - base))) / alpha + log(1 + sum_n exp(beta (s_n - base))) / beta.

    s are cosines to the row's positives p and negatives n. Every row counts in the mean. The paper mines pairs first:
    the miner multi_similarity.

    Options:
        alpha: steepness for positives
        beta: steepness for negatives
        base: cosine that positives should exceed and negatives stay below

    `logs` after a call: active_share (rows whose negatives push at more than half of their greatest force), mean
    positive_similarity and negative_similarity.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> None:
        super().__init__()
        check_option("alpha", alpha, 0, above=True)
        check_option("beta", beta, 0, above=True)
        check_option("base", base, -1, 1)
        self.alpha = alpha
        self.beta = beta
        self.base = base
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
        total, _, pushes = pairs.sums(self.row_terms)
        self.logs = {"active_share": (pushes > math.log(2)).float().mean(), **pairs.mean_scores()}
        return total / len(labels)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses (m,) of a block's rows, their slopes, and the logarithms of the negatives' sums."""
        pull, pull_slopes = log1p_sum_exp(self.alpha * (self.base - block.scores), block.positives)
        push, push_slopes = log1p_sum_exp(self.beta * (block.scores - self.base), block.negatives)
        return pull / self.alpha + push / self.beta, push_slopes.sub_(pull_slopes), push
