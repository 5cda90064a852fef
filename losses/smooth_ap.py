"""Smooth-AP loss (Brown et al., ECCV 2020, arXiv 2007.12163)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows, of_ranks
from losses._registry import LOSSES


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

    reads_labels = True

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
        rankings = RankedRows(embeddings, labels, reference, with_self=True)
        total, _, active = rankings.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / rankings.paired}
        return total / rankings.paired

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: 1 - average precision (m,), slopes (m, C), and which are active (m,)."""
        scores = block.scores.div_(self.temperature)
        own = block.own(scores)
        values, slopes = of_ranks(block, scores, own, missing_precision)
        return values, slopes.div_(self.temperature), block.is_active(scores, own)


def missing_precision(own: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """1 - average precision (m,) of positives with scores and ranks (m, P), and its slopes by both.

    A row by itself has 0.
    """
    if own.shape[1] == 1:  # the row itself: nothing is there to be ranked
        return ranks.new_zeros(len(ranks)), None, torch.zeros_like(ranks)
    # A sum over all columns has sigmoid(0) for the positive itself, which 1 takes the place of.
    ahead = (own[:, None] - own[:, :, None]).sigmoid_()
    ranks = ranks + 0.5
    shares = (ahead.sum(2) + 0.5) / ranks
    count = own.shape[1]
    # A positive q ahead of p adds to the numerator of p as it gains on it.
    gains = ahead.addcmul_(ahead, ahead, value=-1).div_(-count * ranks[:, :, None])
    return 1 - shares.mean(1), gains.sum(1) - gains.sum(2), shares / (count * ranks)
