"""Quadruplet loss (Chen et al., CVPR 2017, arXiv 1704.01719, equation 5), over all triplets and quadruplets of a batch.

`quadruplet` is another loss of that name, of which one quadruplet of a batch counts.
"""

import numpy as np
import torch
from torch import nn

from losses._checks import check_option
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows
from losses._registry import LOSSES
from losses._triplets import FEW, hinges, hinges_of_sorted, triplet_terms


@LOSSES.register("quadruplet_chen", stage="pair", batch="pk")
class QuadrupletChenLoss(nn.Module):
    """Mean over triplets of max(0, |a - p|^2 - |a - n|^2 + margin1), plus the mean over quadruplets of
    max(0, |a - p|^2 - |l - n|^2 + margin2), over unit vectors.

    Of a quadruplet a and p have one label, l has another and n a third one: what is near is to be nearer than whatever
    pair of strangers. Two labels make no quadruplet. All are counted, and none is listed (losses/_triplets.py).

    Options:
        margin1: gap wanted between the squared distances of one anchor (0 to 4 on unit vectors)
        margin2: gap wanted between those of any two pairs, the smaller one in the paper

    `logs` after a call: active_share of the triplets, quadruplet_active_share, mean squared positive_distance and
    negative_distance of triplets.
    """

    reads_labels = True

    def __init__(self, margin1: float = 1.0, margin2: float = 0.5) -> None:
        super().__init__()
        check_option("margin1", margin1, 0)
        check_option("margin2", margin2, 0)
        self.margin1 = margin1
        self.margin2 = margin2
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        rows = RankedRows(embeddings, labels, with_self=False, distances=True, at_once=FEW, lone=True)
        triplets, quadruplets = numbers_of(rows)
        strangers = Strangers(rows, self.margin2) if quadruplets else None

        def row_terms(block: Block) -> tuple[torch.Tensor, ...]:
            values, slopes, _, active, positive_distance, negative_distance = triplet_terms(
                block, block.scores, self.margin1
            )
            if strangers is None:
                return values, slopes, active, torch.zeros_like(active), positive_distance, negative_distance
            further_values, further_slopes, further_active = strangers.terms(block)
            values.add_(further_values, alpha=triplets / quadruplets)
            slopes.add_(further_slopes, alpha=triplets / quadruplets)
            return values, slopes, active, further_active, positive_distance, negative_distance

        total, _, *figures = rows.sums(row_terms)
        active, further_active, positive_distance, negative_distance = (figure.sum() for figure in figures)
        self.logs = {
            "active_share": active / triplets,
            "quadruplet_active_share": further_active / max(quadruplets, 1),
            "positive_distance": positive_distance / triplets,
            "negative_distance": negative_distance / triplets,
        }
        return total / triplets


def numbers_of(rows: RankedRows) -> tuple[int, int]:
    """How many triplets there are, and how many quadruplets: positive pairs with negative pairs, less those that share
    a label."""
    triplets = positive_pairs = negative_pairs = shared = 0
    for _, columns in rows.runs:
        count, positives = columns.shape
        negatives = rows.batch - 1 - positives
        triplets += count * positives * negatives
        positive_pairs += count * positives
        negative_pairs += count * negatives
        shared += count * negatives * positives * (positives + 1)
    return triplets, positive_pairs * negative_pairs - 2 * shared


class Strangers:
    """Sums of max(0, |a - p|^2 + margin - |l - n|^2) over all quadruplets.

    Each negative pair (l, n) meets the edges |a - p|^2 + margin of all positive pairs, less those of l's label and of
    n's. Both orders of a pair have one distance, so each pair meets each edge once, for four. Of both orders of a
    negative pair, each leaves out the edges of the label that comes first, also for four: that is l's and n's.
    """

    @torch.no_grad()
    def __init__(self, rows: RankedRows, margin: float) -> None:
        # Positive pairs, the lower row first; where those of each row begin, and where they stand in a table of scores.
        first, second = rows.positive_pairs_once()
        self.rows = rows
        self.columns = len(rows.columns)
        self.begins = np.searchsorted(first, np.arange(rows.batch + 1))
        device = rows.columns.device
        self.places = torch.from_numpy(first * self.columns + second).to(device, non_blocking=True)

        edges = [rows.scores(band).flatten().index_select(0, self._places(band)) for band in rows.bands()]
        self.edges = torch.cat(edges).add_(margin)
        self.sorted, order = self.edges.sort()

        # Which force all pairs of strangers have on an edge is known after the last row.
        passed = torch.zeros_like(self.edges)
        self.by_edge = torch.zeros_like(self.edges)
        self.found = []
        for block in rows.all_blocks():
            own_numbers = self._own_numbers(block)
            *terms, crossed, own_crossed = self._of_negatives(block, own_numbers)
            passed += crossed
            self.by_edge.index_add_(0, own_numbers.flatten(), own_crossed.flatten(), alpha=-1)
            if rows.is_held:
                self.found.append(terms)
        self.by_edge.index_add_(0, order, passed).mul_(4)

    def terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows l: sums (m,), slopes by the squared distances (m, C), how many are above zero (m,).

        Of a pair that counts for both of its orders, one row has all.
        """
        if self.found:
            values, slopes, active = self.found.pop(0)
        else:
            values, slopes, active, *_ = self._of_negatives(block, self._own_numbers(block))
        by_edge = self.by_edge[self.begins[block.rows.start] : self.begins[block.rows.stop]]
        slopes.view(-1).index_add_(0, self._places(block.rows), by_edge)
        return values, slopes, active

    def _of_negatives(self, block: Block, own_numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `terms` says, without slopes by positive pairs; how many pairs of strangers lie below each edge in
        order (E,), and how many of the row's below each of its label's edges (m, P (P + 1) / 2)."""
        negatives = block.negatives(block.scores)
        start = block.rows.start
        row, column = torch.triu_indices(len(negatives), self.columns - start, 1, device=negatives.device)
        later = row.mul_(self.columns).add_(column).add_(start)
        sums, above, crossed = hinges_of_sorted(self.sorted[None], negatives.flatten().index_select(0, later)[None])
        own_edges = self.edges.index_select(0, own_numbers.flatten()).view_as(own_numbers)
        own_sums, own_above, own_crossed = hinges(own_edges, negatives)
        values = own_sums.mul_(-4)
        values[0] += 4 * sums.sum()  # the rows' values are added up anyway
        slopes = own_above
        slopes.view(-1).index_add_(0, later, above[0], alpha=-1)
        slopes.mul_(4)
        return values, slopes, -slopes.sum(1), crossed[0], own_crossed

    def _places(self, rows: slice) -> torch.Tensor:
        """Where the positive pairs of rows, which are the lower one of both, stand in the scores of these rows."""
        return self.places[self.begins[rows.start] : self.begins[rows.stop]] - rows.start * self.columns

    def _own_numbers(self, block: Block) -> torch.Tensor:
        """Which edges are those of a row's own label (m, P (P + 1) / 2)."""
        members = np.sort(self.rows.of_one_label(block), 1)
        first, second = np.triu_indices(members.shape[1], 1)
        # Of the edges of the first of two members, the second has this place.
        numbers = self.begins[members[:, first]] + (second - first - 1)
        return torch.from_numpy(numbers).to(block.positives.device, non_blocking=True)
