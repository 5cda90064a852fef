"""Quadruplet loss (Chen et al., CVPR 2017, arXiv 1704.01719, equation 5), over all triplets and quadruplets of a batch.

`quadruplet` is another loss of that name, of which one quadruplet of a batch counts.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from core.slices import slices_within
from losses._checks import check_option
from losses._distances import Slopes, placed, table
from losses._pair_distances import BLOCK, pair_counts
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._triplets import SameLabel, hinges_of_sorted, same_label_columns, sum_over_triplets


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
        pair_counts(labels)
        rows, _ = placed(embeddings, None, "squared", unit_length=True)
        triplets = sum_over_triplets(rows, rows, labels, None, self.margin1, "squared")
        loss, count, active = SumOverQuadruplets.apply(rows, same_label_columns(labels), self.margin2)
        self.logs = {
            "active_share": triplets.active / triplets.count,
            "quadruplet_active_share": active / count.clamp_min(1),
            "positive_distance": triplets.positive_distance / triplets.count,
            "negative_distance": triplets.negative_distance / triplets.count,
        }
        return triplets.loss / triplets.count + loss / count.clamp_min(1)


class SumOverQuadruplets(torch.autograd.Function):
    """(sum of max(0, |a - p|^2 - |l - n|^2 + margin), their number, how many are above zero) of all quadruplets of rows
    (B, D); the sum has a gradient.

    Each negative pair (l, n) meets the edges |a - p|^2 + margin of all positive pairs, less those of l's label and of
    n's. Since (n, l) is a negative pair, too, taking those of l's label twice comes to the same sum.
    """

    @staticmethod
    def forward(ctx, rows, same: SameLabel, margin: float):
        size, most = same.columns.shape
        edges = torch.where(same.positive, squared_to_own(rows, same), -torch.inf) + margin
        all_edges, order = edges.view(1, -1).sort(1)
        passed = torch.zeros_like(all_edges)
        passed_by_own = torch.zeros_like(all_edges)
        slopes = Slopes(rows, rows, "squared")
        loss, active = rows.new_zeros(2).unbind()
        for block in slices_within(size, max(size, most**2), BLOCK):
            own = same.columns[block]
            distances = table(rows[block], rows, "squared")
            negatives = distances.scatter(1, own, torch.inf)
            sums, above, below = hinges_of_sorted(all_edges, negatives.view(1, -1))
            # The edges of the row's own label, and where they stand among all.
            of_label = torch.where(same.distinct[block, :, None], edges[own], -torch.inf).flatten(1)
            numbers = (own[:, :, None] * most + torch.arange(most, device=own.device)).flatten(1)
            own_edges, own_order = of_label.sort(1)
            own_sums, own_above, own_below = hinges_of_sorted(own_edges, negatives)

            loss += sums.sum() - 2 * own_sums.sum()
            active += above.sum() - 2 * own_above.sum()
            passed += below
            passed_by_own.view(-1).index_add_(0, numbers.gather(1, own_order).view(-1), own_below.view(-1))
            slopes.add(block, 2 * own_above - above.view_as(own_above), distances)
        by_edge = torch.empty_like(passed).scatter_(1, order, passed).sub_(passed_by_own, alpha=2).view_as(edges)
        for block in slices_within(size, size, BLOCK):
            by_distance = rows.new_zeros(len(rows[block]), size)
            slopes.add(block, by_distance.scatter_add_(1, same.columns[block], by_edge[block]), by_distance)

        count = number_of_quadruplets(same)
        ctx.save_for_backward(slopes.total() * (count > 0))
        count = count.to(rows.dtype)
        ctx.mark_non_differentiable(count, active)
        # Where there is none, what all pairs give and what own ones take away may differ by rounding.
        return torch.where(count > 0, loss, 0), count, active

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        return upstream * ctx.saved_tensors[0], None, None


def squared_to_own(rows: torch.Tensor, same: SameLabel) -> torch.Tensor:
    """Squared distances (B, K) of each row to the columns of its own label."""
    found = []
    for block in slices_within(len(rows), len(rows), BLOCK):
        found.append(table(rows[block], rows, "squared").gather(1, same.columns[block]))
    return torch.cat(found)


def number_of_quadruplets(same: SameLabel) -> torch.Tensor:
    """How many quadruplets there are: positive pairs with negative pairs, less those that share a label."""
    positives = same.positive.sum(1)
    negatives = len(positives) - same.distinct.sum(1)
    pairs_of_label = positives * (positives + 1)
    return positives.sum() * negatives.sum() - 2 * (negatives * pairs_of_label).sum()
