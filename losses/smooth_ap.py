"""Smooth-AP loss (Brown et al., ECCV 2020, arXiv 2007.12163)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, Rankings, SumOverRows, of_ranks, unit_columns
from losses._registry import LOSSES
from losses._unit_vectors import UnitRows


@LOSSES.register("smooth_ap", stage="pair", batch="pk", memory=True)
class SmoothApLoss(nn.Module):
    """1 - mean over anchors of their average precision, in which ranks are sums of sigmoids.

    With cosines s of an anchor to all columns, its average precision is the mean over its positives p of
    (1 + sum over other positives q of sigmoid((s_q - s_p) / temperature)) / (1 + the same sum over all other columns).
    As in the authors' code, the anchor itself is one of the columns, and one of its positives.
    A label may have any number of images; one with a single image gives columns and no anchor.

    Options:
        temperature: width of the sigmoid that stands for a step, in cosine

    `logs` after a call: active_share (anchors with a negative at least as near as one of their positives).
    """

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        check_option("temperature", temperature, 0, above=True)
        self.temperature = temperature
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        rankings = Rankings(labels, reference, with_self=True)
        rows = UnitRows.apply(embeddings)
        further = unit_columns(reference, rows.dtype)
        total, active = SumOverRows.apply(rows, None, further, rankings, self._of_block)
        self.logs = {"active_share": active}
        return total / rankings.paired

    def _of_block(self, block: Block, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = cosines.mul_(1 / self.temperature)
        values, slopes = of_ranks(block, scores, scores.gather(1, block.positives), missing_precision)
        return values, slopes.mul_(1 / self.temperature)


def missing_precision(scores: torch.Tensor, ranks: torch.Tensor, is_positive: torch.Tensor) -> torch.Tensor:
    """1 - average precision (n,) of positives with scores and ranks (n, P); 0 for a row that has itself alone."""
    # A sum over all columns has sigmoid(0) for the positive itself, which 1 takes the place of.
    among_positives = (scores[:, None] - scores[:, :, None]).sigmoid() * is_positive[:, None]
    shares = (among_positives.sum(2) + 0.5) / (ranks + 0.5)
    counts = is_positive.sum(1)
    precision = (shares * is_positive).sum(1) / counts
    return torch.where(counts > 1, 1 - precision, 0)
