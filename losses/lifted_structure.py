"""Lifted structured loss (Oh Song et al., 2016, arXiv 1511.06452, equation 4)."""

from collections.abc import Callable
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

        # Three times through the batch: a term needs the sums of both ends, and a slope the forces of all terms.
        near = pairs.once_if_whole(near_negatives)
        sums = pairs.columns.new_zeros(len(pairs.columns))
        for block in pairs.all_blocks():
            sums[block.rows] = near(block).nearness.sum(1)
        violations = pairs.once_if_whole(lambda block: self.violations(block, near(block).distances, sums))
        forces = forces_on_sums(pairs, violations, sums)
        total, _, active = pairs.sums(lambda block: row_terms(block, near(block), violations(block), sums, forces))

        count = pairs.counts[0].clamp_min(1)
        self.logs = {"active_share": active.sum() / count, **pairs.mean_scores()}
        return total / count

    def violations(self, block: Block, distances: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """What each term squares (m, C), of distances (m, C) and sums of exp(-d) over each column's negatives (C,); 0
        for what is no positive pair."""
        both = sums[block.rows, None] + sums
        logarithms = both.log_().add_(self.neg_margin).nan_to_num_(neginf=0)  # neither end has a negative
        return logarithms.add_(distances).sub_(self.pos_margin).relu_().mul_(block.positives)


class Near(NamedTuple):
    """How near the columns are to a block's rows, (m, C) each."""

    distances: torch.Tensor
    nearness: torch.Tensor  # exp(-d) of negatives, else 0: of unit vectors never so small that it needs a logarithm


def near_negatives(block: Block) -> Near:
    distances = euclidean(block.scores)
    return Near(distances, distances.neg().exp_().mul_(block.negatives))


def forces_on_sums(pairs: PairRows, violations: Callable[[Block], torch.Tensor], sums: torch.Tensor) -> torch.Tensor:
    """Slopes (B,) of the sum of all terms by the logarithms of the rows' sums of exp(-d), of which each end has its
    share in a term's; sums (C,)."""
    forces = torch.zeros_like(sums)
    for block in pairs.all_blocks():
        violated = violations(block)
        both = sums[block.rows, None] + sums
        # NaN where neither end has a negative.
        shares = torch.div(sums[block.rows, None], both, out=both).nan_to_num_(0).mul_(violated)
        forces[block.rows] += shares.sum(1)
        forces += torch.sub(violated, shares, out=shares).sum(0)
    return forces[: pairs.batch]


def row_terms(
    block: Block, near: Near, violations: torch.Tensor, sums: torch.Tensor, forces: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Of a block's rows: sums over their positive pairs (m,); slopes; numbers of terms above zero (m,).

    A row's negatives take part in the terms of its positives' rows, too: `forces` says how much in all. Writes over
    what is near and over the violations.
    """
    values = violations.square().sum(1) / 2
    active = violations.sign().sum(1)
    pushes = forces[block.rows] / sums[block.rows].masked_fill(sums[block.rows] == 0, 1)
    slopes = violations.sub_(near.nearness.mul_(pushes[:, None])).div_(near.distances.mul_(2))
    return values, slopes, active
