"""Lifted structured loss (Oh Song et al., 2016, arXiv 1511.06452, equation 4)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, euclidean, log_sum_exp
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("lifted_structure", stage="pair", batch="pk", memory=True, mined="pairs")
class LiftedStructureLoss(nn.Module):
    """Mean over positive pairs (i, p) of max(0, log(sum_n exp(neg_margin - d_n)) + d_ip - pos_margin)^2 / 2.

    d are Euclidean distances of unit vectors; n goes through the negatives of i and through those of p, which has none
    where it is a row of the memory.

    Options:
        neg_margin: distance that negatives should exceed
        pos_margin: distance below which positives should stay

    `logs` after a call: active_share (positive pairs with a term above zero), mean squared positive_distance and
    negative_distance.
    """

    def __init__(self, neg_margin: float = 1.0, pos_margin: float = 0.0) -> None:
        super().__init__()
        check_option("neg_margin", neg_margin, 0)
        check_option("pos_margin", pos_margin, 0)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
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
        nearness, forces = self.of_negatives(pairs)
        total, _, counts, active = pairs.sums(lambda block: self.row_terms(block, nearness, forces))
        count = counts.sum().clamp_min(1)
        self.logs = {"active_share": active.sum() / count, **pairs.mean_scores()}
        return total / count

    @torch.no_grad()
    def of_negatives(self, pairs: PairRows) -> tuple[torch.Tensor, torch.Tensor]:
        """log sum_n exp(neg_margin - d_n) of each column (C,), -infinity without a negative; slopes of the sum of all
        terms by those of the rows (B,)."""
        nearness = pairs.columns.new_full((len(pairs.columns),), -torch.inf)
        for block in pairs.all_blocks():
            nearness[block.rows], _ = self.nearness(euclidean(block.scores), block)
        forces = torch.zeros_like(nearness)
        for block in pairs.all_blocks():
            violations = self.violations(euclidean(block.scores), block, nearness)
            # The row's own share of the sum in each term; NaN where neither end has a negative.
            shares = torch.sigmoid(nearness[block.rows, None] - nearness).nan_to_num_(0).mul_(violations)
            forces[block.rows] += shares.sum(1)
            forces += violations.sub_(shares).sum(0)
        return nearness, forces[: pairs.batch]

    def nearness(self, distances: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """log sum_n exp(neg_margin - d_n) (m,) of a block's rows, and the negatives' shares (m, C)."""
        return log_sum_exp(self.neg_margin - distances, block.negatives)

    def violations(self, distances: torch.Tensor, block: Block, nearness: torch.Tensor) -> torch.Tensor:
        """What each term squares (m, C); 0 for what is no positive pair."""
        sums = torch.logaddexp(nearness[block.rows, None], nearness)
        sums.masked_fill_(sums == -torch.inf, 0)  # neither end has a negative
        return sums.add_(distances).sub_(self.pos_margin).relu_().mul_(block.positives)

    def row_terms(self, block: Block, nearness: torch.Tensor, forces: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of a block's rows (m,): sums over their positive pairs; slopes; numbers of pairs, of terms above zero.

        A row's negatives take part in the terms of its positives' rows, too: `forces` says how much in all.
        """
        distances = euclidean(block.scores)
        violations = self.violations(distances, block, nearness)
        _, shares = self.nearness(distances, block)
        values = violations.square().sum(1) / 2
        active = violations.count_nonzero(1)
        slopes = violations.sub_(shares.mul_(forces[block.rows, None])).div_(2 * distances)
        return values, slopes, block.positives.sum(1), active
