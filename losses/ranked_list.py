"""Ranked list loss (Wang et al., 2019, arXiv 1903.03238, equations 8 to 12)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, euclidean
from losses._precision import full_precision
from losses._registry import LOSSES

EPSILON = 1e-5  # added to each column's weight, so that a row without a violation has a mean of zero


@LOSSES.register("ranked_list", stage="pair", batch="pk", memory=True, mined="pairs")
class RankedListLoss(nn.Module):
    """Mean over rows of (1 - imbalance) mean_p (d_p - alpha + margin) + imbalance mean_n (alpha - d_n).

    d are Euclidean distances of unit vectors. Both means are over violations alone: positives beyond alpha - margin and
    negatives within alpha, weighted by exp(T violation); the weights take part in the gradient, as in
    pytorch-metric-learning, which leaves out pairs at a distance of exactly zero; here they count.

    Options:
        margin: gap wanted between positives and negatives
        Tn: how much more the worst negatives weigh
        imbalance: share of the negatives in the loss, 0 to 1
        alpha: distance that negatives should exceed; None: 1 + margin / 2
        Tp: how much more the worst positives weigh

    `logs` after a call: active_share (rows with a negative within alpha), mean squared positive_distance and
    negative_distance.
    """

    def __init__(
        self,
        margin: float = 0.4,
        Tn: float = 10.0,
        imbalance: float = 0.5,
        alpha: float | None = None,
        Tp: float = 0.0,
    ) -> None:
        super().__init__()
        if alpha is None:
            alpha = 1 + margin / 2
        check_option("margin", margin, 0)
        check_option("Tn", Tn, 0)
        check_option("imbalance", imbalance, 0, 1)
        check_option("alpha", alpha, 0)
        check_option("Tp", Tp, 0)
        self.alpha = alpha
        self.margin = margin
        self.imbalance = imbalance
        self.temperatures = (Tp, Tn)
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
        total, _, pushed = pairs.sums(self.row_terms)
        self.logs = {"active_share": pushed.sign().mean(), **pairs.mean_scores()}
        return total / len(labels)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses (m,) of a block's rows, their slopes, and what their negatives add."""
        distances = euclidean(block.scores)
        beyond = (distances - (self.alpha - self.margin)).relu_().mul_(block.positives)
        within = (self.alpha - distances).relu_().mul_(block.negatives)
        pull, pull_slopes = weighted_mean(beyond, self.temperatures[0])
        push, push_slopes = weighted_mean(within, self.temperatures[1])
        values = (1 - self.imbalance) * pull + self.imbalance * push
        slopes = pull_slopes.mul_(1 - self.imbalance).sub_(push_slopes, alpha=self.imbalance)
        return values, slopes.div_(2 * distances), push


def weighted_mean(violations: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (m,) of the numbers above zero of violations (m, C), weighted by exp(temperature violation); its slopes."""
    constant = violations.shape[1] * EPSILON
    if temperature == 0:
        shares = violations.sign()
        shares.div_(shares.sum(1, keepdim=True).add_(constant))
        return torch.linalg.vecdot(shares, violations), shares
    # The greatest weight is made 1, whatever the temperature; the constant is scaled along.
    greatest = violations.amax(1, keepdim=True)
    weights = (violations - greatest).mul_(temperature).exp_().mul_(violations.sign())
    rest = (-temperature * greatest).exp_()
    shares = weights.div_(weights.sum(1, keepdim=True).add_(rest, alpha=constant))
    parts = shares * violations
    means = parts.sum(1, keepdim=True)
    slopes = parts.mul_(temperature).addcmul_(shares, 1 - temperature * means)
    return means[:, 0], slopes
