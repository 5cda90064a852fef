"""ROADMAP loss (Ramzi et al., NeurIPS 2021, arXiv 2110.01445; in images and hierarchies: arXiv 2309.08250)."""

import math

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, Rankings, SumOverRows, of_ranks, products_of, sigmoid_step, unit_columns
from losses._registry import LOSSES
from losses._unit_vectors import UnitRows


@LOSSES.register("roadmap", stage="pair", batch="pk", memory=True)
class RoadmapLoss(nn.Module):
    """1 - a lower bound of the mean average precision, plus calibration_weight times a contrastive loss.

    Average precision is the mean over an anchor's positives p of rank+ / (rank+ + rank-). rank+ counts positives with
    at least the cosine of p and has no gradient; rank- sums, over negatives that are nearer than p by x in cosine,
    sigmoid(x / tau) for x <= 0, 1/2 + sigmoid(x / tau) for x up to delta, and rho (x - delta) + offset beyond.
    As in the authors' code, the anchor itself is one of its positives.

    The contrastive loss keeps cosines comparable between anchors: pos_margin - s of positive pairs and
    s - neg_margin of negative pairs, each where it is above zero, and averaged over the pairs where it is.
    A row whose label occurs once gives columns and negative pairs, and no precision.

    Options:
        tau: width of the sigmoid that stands for a step, in cosine
        rho: slope for negatives nearer than a positive by more than delta
        delta: how much nearer that is, in cosine
        offset: value at delta; None: where the sigmoid leaves off (the authors' recipes have 1.44)
        calibration_weight: weight of the contrastive loss
        pos_margin: cosine that positives should have at least
        neg_margin: cosine that negatives should have at most

    `logs` after a call: active_share (anchors with a negative at least as near as one of their positives).
    """

    def __init__(
        self,
        tau: float = 0.01,
        rho: float = 100.0,
        delta: float = 0.05,
        offset: float | None = None,
        calibration_weight: float = 1.0,
        pos_margin: float = 0.9,
        neg_margin: float = 0.6,
    ) -> None:
        super().__init__()
        check_option("tau", tau, 0, above=True)
        check_option("rho", rho, 0)
        check_option("delta", delta, 0)
        self.at_delta = torch.tensor(delta / tau, dtype=torch.float64).sigmoid().item()
        if offset is None:
            offset = 0.5 + self.at_delta
        check_option("offset", offset, 0)
        check_option("calibration_weight", calibration_weight, 0)
        check_option("pos_margin", pos_margin, -1, 1)
        check_option("neg_margin", neg_margin, -1, 1)
        self.tau = tau
        self.rho = rho
        self.delta = delta
        self.offset = offset
        self.calibration_weight = calibration_weight
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        rows = UnitRows.apply(embeddings)
        further = unit_columns(reference, rows.dtype)
        rankings = Rankings(labels, reference, with_self=True)
        pull, push = self._calibration_factors(rows.detach(), further, rankings)

        def of_block(block: Block, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            own = cosines.gather(1, block.positives)
            negatives = cosines.scatter_(1, block.positives, -math.inf)
            values, slopes = of_ranks(block, negatives / self.tau, own / self.tau, missing_precision, self._step)
            values /= rankings.paired
            slopes /= rankings.paired * self.tau
            if self.calibration_weight > 0:
                too_far = torch.where(is_other(block), self.pos_margin - own, 0).clamp_min_(0)
                too_near = negatives.sub_(self.neg_margin).clamp_min_(0)
                values += pull * too_far.sum(1) + push * too_near.sum(1)
                slopes.scatter_add_(1, block.positives, -pull * (too_far > 0))
                slopes.addcmul_(too_near.sign_(), push)
            return values, slopes

        total, active = SumOverRows.apply(rows, None, further, rankings, of_block)
        self.logs = {"active_share": active}
        return total

    def _step(self, differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bound from above of a step from 0 to 1: sums (n,) and slopes (n, N) of differences (n, N) over tau."""
        delta = self.delta / self.tau
        sums, slopes = sigmoid_step(differences.clamp_max(delta))
        sums += 0.5 * (differences > 0).sum(1)
        # Beyond delta the sigmoid keeps its value there, and what is added makes it the line.
        beyond = differences.sub_(delta).clamp_min_(0)
        is_beyond = beyond > 0
        sums += self.rho * self.tau * beyond.sum(1)
        sums += (self.offset - 0.5 - self.at_delta) * is_beyond.sum(1)
        return sums, slopes.masked_fill_(is_beyond, self.rho * self.tau)

    @torch.no_grad()
    def _calibration_factors(
        self, rows: torch.Tensor, further: torch.Tensor | None, rankings: Rankings
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """calibration_weight over the number of positive pairs, and of negative pairs, that are across their margin.

        The gradient needs both while it is made, so the products are made once more for them.
        """
        far = rows.new_zeros(())
        near = rows.new_zeros(())
        if self.calibration_weight > 0:
            columns = rows if further is None else torch.cat([rows, further])
            for block, _, cosines in products_of(rows, columns, rankings):
                own = cosines.gather(1, block.positives)
                negatives = cosines.scatter_(1, block.positives, -math.inf)
                far += ((own < self.pos_margin) & is_other(block)).sum()
                near += (negatives > self.neg_margin).sum()
        return self.calibration_weight / far.clamp_min(1), self.calibration_weight / near.clamp_min(1)


def is_other(block: Block) -> torch.Tensor:
    """Where a block's positives are such, and not the row itself, (m, P) bool."""
    return block.is_positive & (block.positives != block.rows[:, None])


def missing_precision(scores: torch.Tensor, ranks: torch.Tensor, is_positive: torch.Tensor) -> torch.Tensor:
    """1 - average precision (n,) of positives with scores and ranks among negatives (n, P); 0 for a row by itself."""
    is_ahead = (scores[:, None] >= scores[:, :, None]) & is_positive[:, None]
    among_positives = is_ahead.sum(2)
    shares = among_positives / (among_positives + ranks)
    counts = is_positive.sum(1)
    precision = (shares * is_positive).sum(1) / counts
    return torch.where(counts > 1, 1 - precision, 0)
