"""FastAP loss (Cakir et al., Deep Metric Learning to Rank, CVPR 2019)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows
from losses._registry import LOSSES


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

    reads_labels = True

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
        rankings = RankedRows(embeddings, labels, reference, with_self=False)
        total, _, active = rankings.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / rankings.paired}
        return total / rankings.paired

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: 1 - average precision (m,), slopes (m, C), and which are active (m,)."""
        own = block.own(block.scores)
        active = block.is_active(block.scores, own)

        # In widths of a bin 2 - 2 s is from 0 to num_bins. What is no negative lands in a bin behind the last.
        bins = self.num_bins + 2
        places = self._places(block.scores)
        block.hide(places, bins - 1)
        places.scatter_(1, block.positives, bins - 1)
        own = self._places(own)

        # A place between two bins belongs to the one behind by its fraction, and by the rest to the one before. Summed
        # up to the one before, that is all places up to there less their fractions.
        before = places.long()
        counts = places.new_zeros(len(places), bins)
        counts.scatter_add_(1, before, torch.ones_like(places))
        fractions = torch.zeros_like(counts)
        fractions.scatter_add_(1, before, places.sub_(before))
        negatives = (counts.cumsum(1) - fractions).clamp_min_(0)

        # Positives are few and may be alone in a bin, where a difference of sums would be rounding.
        own_before = own.long()
        own.sub_(own_before)
        histogram = torch.zeros_like(counts)
        histogram.scatter_add_(1, own_before, 1 - own).scatter_add_(1, own_before + 1, own)
        positives = histogram.cumsum(1)

        # Value and slopes of h H+ / H, which is nothing where h is.
        is_filled = histogram > 0
        totals = positives + negatives
        precisions = torch.where(is_filled, positives / totals, 0)
        shares = torch.where(is_filled, histogram / totals, 0)
        values = 1 - (histogram * precisions).sum(1) / block.count
        by_negatives = shares * precisions
        by_positives = shares - by_negatives
        # A bin of the histogram is in its own sum and in all behind it.
        by_histogram = precisions + by_positives.flip(1).cumsum(1).flip(1)

        # A negative that moves on leaves the sum up to the bin before it, a positive goes from that bin to the next.
        slopes = by_negatives.gather(1, before)
        by_own = by_histogram.gather(1, own_before + 1) - by_histogram.gather(1, own_before)
        slopes.scatter_add_(1, block.positives, by_own)
        return values, slopes.mul_(self.num_bins / 2 / block.count), active

    def _places(self, cosines: torch.Tensor) -> torch.Tensor:
        """Squared distances in widths of a bin, 0 to num_bins."""
        return (cosines - 1).mul_(-self.num_bins / 2).clamp_(0, self.num_bins)
