"""All triplets of a batch without a list of them: every anchor's positives against its negatives, by order alone.

A hinge max(0, p - n + margin) is above zero where n is below the edge p + margin. With an anchor's edges in order, one
search tells for each negative how many edges lie above it, and sums over all triplets are sums over its B distances:
O(B^2 log B) in time where triplets are B^2 K, in blocks of rows in memory.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from losses._distances import Distance, Slopes, blocks, table
from losses._mined import Reference, column_labels


class SameLabel(NamedTuple):
    """The columns of each row's own label, K being the most that a label has.

    columns (B, K) int64; a row that has fewer has its first one again there. distinct (B, K): whether a column stands
    there for the first time. positive (B, K): whether it is a positive: distinct, neither the row itself nor a
    reference row of the same image.
    """

    columns: torch.Tensor
    distinct: torch.Tensor
    positive: torch.Tensor


def same_label_columns(labels: torch.Tensor, reference: Reference | None = None) -> SameLabel:
    """SameLabel of labels (B,). On a GPU, K is read back: the one time that a loss over all triplets waits for it."""
    everyone = column_labels(labels, reference)
    ordered, order = everyone.sort(stable=True)
    first = torch.searchsorted(ordered, labels)
    count = torch.searchsorted(ordered, labels, right=True) - first
    steps = torch.arange(int(count.max()), device=labels.device)
    distinct = steps < count[:, None]
    columns = order[first[:, None] + torch.where(distinct, steps, 0)]
    positive = distinct & (columns != torch.arange(len(labels), device=labels.device)[:, None])
    if reference is not None:
        behind = columns - len(labels)
        images = reference.images[behind.clamp_min(0)]
        positive &= (behind < 0) | (images != reference.batch_images[:, None])
    return SameLabel(columns, distinct, positive)


class Sums(NamedTuple):
    """Of all triplets: the sum of losses, with a gradient; without one, how many there are, how many have a loss above
    zero, and the sums of the distances to their positives and to their negatives."""

    loss: torch.Tensor
    count: torch.Tensor
    active: torch.Tensor
    positive_distance: torch.Tensor
    negative_distance: torch.Tensor


def sum_over_triplets(
    rows: torch.Tensor,
    columns: torch.Tensor,
    labels: torch.Tensor,
    reference: Reference | None,
    margin: float | None,
    distance: Distance,
) -> Sums:
    """Sums over all triplets of rows (B, D) and columns (C, D) as `placed` gives them; labels (B,) are the rows'.

    The loss of a triplet is max(0, p - n + margin), or log(1 + exp(p - n)) where margin is None. Columns take a
    gradient as far as they are rows of the batch.
    """
    return Sums(
        *_SumOverTriplets.apply(rows, columns.detach(), same_label_columns(labels, reference), margin, distance)
    )


class _SumOverTriplets(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, columns, same, margin, distance):
        slopes = Slopes(rows, columns, distance) if ctx.needs_input_grad[0] else None
        loss, active, positive_distance, negative_distance = rows.new_zeros(4).unbind()
        positive_counts = same.positive.sum(1)
        negative_counts = len(columns) - same.distinct.sum(1)
        sum_of_row = _softpluses if margin is None else _hinges
        for block in blocks(len(rows), len(columns)):
            distances = table(rows[block], columns, distance)
            own = same.columns[block]
            to_own = distances.gather(1, own)
            negatives = distances.scatter(1, own, torch.inf)
            positives = torch.where(same.positive[block], to_own, -torch.inf)
            row_sums, row_active, by_positive, by_negative = sum_of_row(positives, negatives, margin or 0.0)
            loss += row_sums.sum()
            active += row_active.sum()
            to_positives = torch.where(same.positive[block], to_own, 0).sum(1)
            to_negatives = distances.sum(1) - torch.where(same.distinct[block], to_own, 0).sum(1)
            positive_distance += (to_positives * negative_counts[block]).sum()
            negative_distance += (to_negatives * positive_counts[block]).sum()
            if slopes is not None:
                slopes.add(block, by_negative.scatter_add_(1, own, by_positive), distances)
        if slopes is not None:
            ctx.save_for_backward(slopes.total())
        count = (positive_counts * negative_counts).sum().to(rows.dtype)
        ctx.mark_non_differentiable(count, active, positive_distance, negative_distance)
        return loss, count, active, positive_distance, negative_distance

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        return upstream * ctx.saved_tensors[0], None, None, None, None


def _hinges(
    positives: torch.Tensor, negatives: torch.Tensor, margin: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row's max(0, p - n + margin) over its positives (m, K; -inf is none) and negatives (m, C; inf is none):

    sums (m,), how many are above zero (m,), and the slopes of the sums by positives (m, K) and by negatives (m, C).
    """
    edges, order = (positives + margin).sort(1)
    sums, above, passed = hinges_of_sorted(edges, negatives)
    by_positive = torch.empty_like(edges).scatter_(1, order, passed)
    return sums, passed.sum(1), by_positive, above.neg_()


def hinges_of_sorted(edges: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row's max(0, e - v) over its edges e (m, K), which ascend, and values v (m, C): sums (m,), how many edges
    lie above each value (m, C), how many values below each edge (m, K). An edge of -inf and a value of inf are none."""
    below = torch.searchsorted(edges, values, right=True)
    above = (edges.shape[1] - below).to(values.dtype)
    # Entry k: the sum of the edges from k on; after the last edge, none.
    suffixes = edges.clamp_min(torch.finfo(edges.dtype).min).flip(1).cumsum(1).flip(1)
    suffixes = F.pad(torch.where(edges.isfinite(), suffixes, 0), (0, 1))
    sums = (suffixes.gather(1, below) - above * torch.where(values.isfinite(), values, 0)).sum(1)
    # A value lies below the edges from its own position on, so that the counts of positions add up.
    at = torch.zeros_like(suffixes).scatter_add_(1, below, torch.ones_like(values))
    return sums, above, at.cumsum(1)[:, :-1] * edges.isfinite()


def _softpluses(
    positives: torch.Tensor, negatives: torch.Tensor, _: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `_hinges` says, of log(1 + exp(p - n))."""
    sums = active = positives.new_zeros(len(positives))
    by_positive = torch.zeros_like(positives)
    by_negative = torch.zeros_like(negatives)
    for number, positive in enumerate(positives.unbind(1)):
        gaps = positive[:, None] - negatives
        shares = gaps.sigmoid()
        sums = sums + F.softplus(gaps).sum(1)
        active = active + (shares > 0).sum(1)
        by_positive[:, number] = shares.sum(1)
        by_negative -= shares
    return sums, active, by_positive, by_negative
