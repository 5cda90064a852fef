"""FastAP loss (Cakir et al., Deep Metric Learning to Rank, CVPR 2019)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, Rankings, SumOverRows, unit_columns
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("fast_ap", stage="pair", batch="pk", memory=True)
class FastApLoss(nn.Module):
    """1 - mean over anchors of their average precision, with distances counted in a histogram.

    Squared distances of unit vectors, from 0 to 4, are shared out between the two nearest of num_bins + 1 bins. With
    h+ the histogram of an anchor's positives, H+ its cumulative sum and H that of all columns but the anchor, the
    average precision is the sum over bins of h+ H+ / H, over the number of positives.
    A row whose label occurs once gives columns and no anchor.

    Options:
        num_bins: intervals that distances are sorted into

    `logs` after a call: active_share (anchors with a negative at least as near as one of their positives).
    """

    def __init__(self, num_bins: int = 10) -> None:
        super().__init__()
        check_option("num_bins", num_bins, 1)
        self.num_bins = num_bins
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        rankings = Rankings(labels, reference, with_self=False)
        rows = normalise(embeddings)
        further = unit_columns(reference, rows.dtype)
        total, active = SumOverRows.apply(rows, rows, further, rankings, self._of_block)
        self.logs = {"active_share": active}
        return total / rankings.paired

    def _of_block(self, block: Block, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # In widths of a bin 2 - 2 s is from 0 to num_bins. What is no negative lands in a bin behind the last.
        bins = self.num_bins + 2
        places = cosines.sub_(1).mul_(-self.num_bins / 2).clamp_(0, self.num_bins)
        own = places.gather(1, block.positives)
        block.hide(places, bins - 1)
        places.scatter_(1, block.positives, bins - 1)

        # A place between two bins belongs to the one behind by its fraction, and by the rest to the one before. Summed
        # up to the one before, that is all places up to there less their fractions.
        before = places.long()
        counts = places.new_zeros(len(places), bins)
        counts.scatter_add_(1, before, torch.ones_like(places))
        fractions = places.new_zeros(len(places), bins)
        fractions.scatter_add_(1, before, places.sub_(before))
        negatives = (counts.cumsum(1) - fractions)[:, :-1].clamp_min_(0)

        with torch.enable_grad():
            leaves = [own.requires_grad_(), negatives.requires_grad_()]
            values = self._missing_precision(*leaves, block.is_positive)
            by_own, by_negatives = torch.autograd.grad(values.sum(), leaves)

        # A negative that moves on leaves the bin before it, and with it that one sum.
        slopes = nn.functional.pad(-by_negatives, (0, 1)).gather(1, before)
        slopes.scatter_add_(1, block.positives, torch.where(block.is_positive, by_own, 0))
        return values.detach(), slopes.mul_(-self.num_bins / 2)

    def _missing_precision(
        self, places: torch.Tensor, negatives: torch.Tensor, is_positive: torch.Tensor
    ) -> torch.Tensor:
        """1 - average precision (m,) of positives at places (m, P), with so many negatives up to each bin (m, bins)."""
        middles = torch.arange(self.num_bins + 1, dtype=places.dtype, device=places.device)
        pulses = torch.relu(1 - (places[:, :, None] - middles).abs()) * is_positive[:, :, None]
        histogram = pulses.sum(1)
        positives = histogram.cumsum(1)
        # A bin without a positive adds nothing; 1 keeps it from dividing by zero.
        precisions = positives / torch.where(histogram > 0, positives + negatives, 1)
        return 1 - (histogram * precisions).sum(1) / is_positive.sum(1)
