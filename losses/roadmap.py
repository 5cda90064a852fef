"""ROADMAP loss (Ramzi et al., NeurIPS 2021, arXiv 2110.01445; in images and hierarchies: arXiv 2309.08250)."""

import math

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows, of_ranks, sigmoid_step
from losses._registry import LOSSES


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

    reads_labels = True

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
        rankings = RankedRows(embeddings, labels, reference, with_self=True)
        pull, push = self.calibration_factors(rankings)
        total, _, active = rankings.sums(lambda block: self.row_terms(block, rankings.paired, pull, push))
        self.logs = {"active_share": active.sum() / rankings.paired}
        return total

    def row_terms(
        self, block: Block, paired: int, pull: torch.Tensor, push: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: both terms (m,), slopes (m, C), and which are active (m,)."""
        own = block.own(block.scores)
        active = block.is_active(block.scores, own)
        negatives = block.scores.scatter_(1, block.positives, -math.inf)
        values, slopes = of_ranks(block, negatives / self.tau, own / self.tau, missing_precision, self.step)
        values /= paired
        slopes /= paired * self.tau
        if self.calibration_weight > 0:
            too_far = (self.pos_margin - own).clamp_min_(0).mul_(block.is_other())
            too_near = negatives.sub_(self.neg_margin).clamp_min_(0)
            values += pull * too_far.sum(1) + push * too_near.sum(1)
            slopes.addcmul_(too_near.sign_(), push)
            slopes.scatter_add_(1, block.positives, too_far.sign_().mul_(-pull))
        return values, slopes, active

    def step(self, differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bound from above of a step from 0 to 1: sums (m, P) and slopes (m, P, C) of differences over tau."""
        delta = self.delta / self.tau
        ahead = torch.gt(differences, 0, out=torch.empty_like(differences)).sum(2)
        sums, slopes = sigmoid_step(differences.clamp_max(delta))
        # Beyond delta the sigmoid keeps its value there, and what is added makes it the line.
        beyond = differences.sub_(delta).clamp_min_(0)
        lines = beyond.sum(2)
        is_beyond = beyond.sign_()
        sums += 0.5 * ahead + self.rho * self.tau * lines + (self.offset - 0.5 - self.at_delta) * is_beyond.sum(2)
        # Beyond, the sigmoid has left the slope that it has at delta.
        at_delta = self.at_delta * (1 - self.at_delta)
        return sums, slopes.add_(is_beyond, alpha=self.rho * self.tau - at_delta)

    @torch.no_grad()
    def calibration_factors(self, rankings: RankedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """calibration_weight over the number of positive pairs, and of negative pairs, that are across their margin.

        The gradient needs both while it is made, so the scores are gone through once more for them.
        """
        far = near = rankings.rows.new_zeros(())
        if self.calibration_weight > 0:
            for block in rankings.all_blocks():
                own = block.own(block.scores)
                far = far + ((own < self.pos_margin) & block.is_other()).sum()
                across = torch.gt(block.scores, self.neg_margin, out=torch.empty_like(block.scores))
                near = near + across.sum() - block.own(across).sum()
        return self.calibration_weight / far.clamp_min(1), self.calibration_weight / near.clamp_min(1)


def missing_precision(own: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
    """1 - average precision (m,) of positives with scores and ranks among negatives (m, P), and its slopes by ranks.

    Which positives are ahead of which has no slope. A row by itself has 0.
    """
    if own.shape[1] == 1:
        return ranks.new_zeros(len(ranks)), None, torch.zeros_like(ranks)
    among_positives = (own[:, None] >= own[:, :, None]).sum(2)
    ranks = ranks + among_positives
    shares = among_positives / ranks
    return 1 - shares.mean(1), None, shares / (own.shape[1] * ranks)
