"""Lifted structured loss (Oh Song et al., 2016, arXiv 1511.06452, equation 4)."""

from typing import NamedTuple

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, euclidean
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
        sums, forces, looks = self.of_negatives(pairs)
        total, _, active = pairs.sums(lambda block: self.row_terms(block, sums, forces, looks))
        count = pairs.counts[0].clamp_min(1)
        self.logs = {"active_share": active.sum() / count, **pairs.mean_scores()}
        return total / count

    @torch.no_grad()
    def of_negatives(self, pairs: PairRows) -> tuple[torch.Tensor, torch.Tensor, "Looks | None"]:
        """sum_n exp(-d_n) of each column (C,), 0 without a negative; slopes of the sum of all terms by the logarithms
        of those of the rows (B,); and what was made of the scores, where one block has all."""
        sums = pairs.columns.new_zeros(len(pairs.columns))
        for block in pairs.all_blocks():
            distances = euclidean(block.scores)
            near = nearness(distances, block)
            sums[block.rows] = near.sum(1)
        is_whole = len(block.scores) == pairs.batch
        forces = torch.zeros_like(sums)
        for block in pairs.all_blocks():
            if not is_whole:
                distances = euclidean(block.scores)
            both = sums[block.rows, None] + sums
            violations = self.violations(distances, block, both)
            # The row's own share of the sum in each term; NaN where neither end has a negative.
            shares = torch.div(sums[block.rows, None], both).nan_to_num_(0).mul_(violations)
            forces[block.rows] += shares.sum(1)
            forces += (violations - shares).sum(0)
        return sums, forces[: pairs.batch], Looks(distances, near, violations) if is_whole else None

    def violations(self, distances: torch.Tensor, block: Block, both: torch.Tensor) -> torch.Tensor:
        """What each term squares (m, C), of sums of exp(-d) over the negatives of both ends; 0 for no positive pair."""
        logarithms = both.log().add_(self.neg_margin).nan_to_num_(neginf=0)  # neither end has a negative
        return logarithms.add_(distances).sub_(self.pos_margin).relu_().mul_(block.positives)

    def row_terms(
        self, block: Block, sums: torch.Tensor, forces: torch.Tensor, looks: "Looks | None" = None
    ) -> tuple[torch.Tensor, ...]:
        """Of a block's rows: sums over their positive pairs (m,); slopes; numbers of terms above zero (m,).

        A row's negatives take part in the terms of its positives' rows, too: `forces` says how much in all.
        """
        if looks is None:
            distances = euclidean(block.scores)
            violations = self.violations(distances, block, sums[block.rows, None] + sums)
            looks = Looks(distances, nearness(distances, block), violations)
        distances, near, violations = looks
        values = violations.square().sum(1) / 2
        active = violations.sign().sum(1)
        pushes = forces[block.rows] / torch.where(sums[block.rows] > 0, sums[block.rows], 1)
        slopes = violations.sub_(near.mul_(pushes[:, None])).div_(2 * distances)
        return values, slopes, active


class Looks(NamedTuple):
    """What a block's scores become, (m, C) each."""

    distances: torch.Tensor
    near: torch.Tensor  # exp(-d) of negatives, else 0
    violations: torch.Tensor


def nearness(distances: torch.Tensor, block: Block) -> torch.Tensor:
    """exp(-d) (m, C) of a block's negatives, else 0: of unit vectors never so small that it needs a logarithm."""
    return distances.neg().exp_().mul_(block.negatives)
