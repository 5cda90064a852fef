"""Squared distances of all pairs of a batch, some rows at a time: what is read once of B x B never exists whole."""

from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from core.errors import InputError

BLOCK = 2**19  # numbers of the B x B that are worked on at once: they stay in the cache


def pair_counts(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many positives and how many negatives each row of a batch has, (B,) int64 each.

    On the CPU raises InputError when the batch has no pair of either kind, since it would train on nonsense in silence;
    elsewhere reading that back would stall the device in every step, and the samplers make no such batch.
    """
    ordered = labels.sort().values
    same = torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
    if labels.device.type == "cpu" and same.max() == 1:
        raise InputError(f"no label occurs twice among the {len(labels)} rows; a pair loss needs two images of a label")
    if labels.device.type == "cpu" and same.max() == len(labels):
        raise InputError(f"all {len(labels)} rows have label {labels[0]}; a pair loss needs two labels in a batch")
    return same - 1, len(labels) - same


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows (B, D) moved so that their mean is the origin: the same distances, with less rounding."""
    return rows - rows.mean(0)


def distance_blocks(
    points: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (rows, distances (m, B), positives (m, B), negatives (m, B)) for slices of rows of centred points (B, D).

    distances are squared Euclidean, never negative, and may be written over; the masks are bool. A row is neither its
    own positive nor its own negative.
    """
    squares = points.square().sum(1)
    step = max(1, BLOCK // len(points))
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        distances = torch.addmm(squares, points[rows], points.T, alpha=-2).add_(squares[rows, None]).clamp_min_(0)
        positives = labels[rows, None] == labels
        negatives = ~positives
        positives.diagonal(start).fill_(False)
        yield rows, distances, positives, negatives


class LogMeanExps(torch.autograd.Function):
    """Of each row's squared distances d, with gradients to the points (B, D):

    (farness, nearness, farthest, nearest, positive_sum, negative_sum), (B,) each: log mean exp(d) over its positives,
    log mean exp(-d) over its negatives; without gradient, the greatest d of a positive, the least of a negative, and
    the sums of both kinds. A row without a positive has a finite farness that means nothing and takes no gradient.
    """

    @staticmethod
    def forward(ctx, points, labels, positive_counts, negative_counts):
        points = centred(points)
        sums_and_extremes = points.new_empty(6, len(points))
        farness, nearness, farthest, nearest, positive_sum, negative_sum = sums_and_extremes.unbind()
        outside = torch.finfo(points.dtype).min  # in place of -inf, so that a row without a pair stays finite
        for rows, distances, positives, negatives in distance_blocks(points, labels):
            far = distances.masked_fill(negatives, outside)
            far.diagonal(rows.start).fill_(outside)
            near = distances.neg().masked_fill_(~negatives, outside)
            farthest[rows] = far.amax(1)
            nearest[rows] = -near.amax(1)
            positive_sum[rows] = torch.where(positives, distances, 0).sum(1)
            negative_sum[rows] = distances.sum(1) - positive_sum[rows]
            farness[rows] = far.logsumexp(1)
            nearness[rows] = near.logsumexp(1)
        # Backward needs log sums, whose exponentials are shares of a whole; what is returned are log means.
        ctx.save_for_backward(points, labels, farness.clone(), nearness.clone())
        farness = farness - positive_counts.clamp_min(1).to(points.dtype).log()
        nearness = nearness - negative_counts.clamp_min(1).to(points.dtype).log()
        ctx.mark_non_differentiable(farthest, nearest, positive_sum, negative_sum)
        return farness, nearness, farthest, nearest, positive_sum, negative_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, farness, nearness, *_):
        points, labels, far, near = ctx.saved_tensors
        # The gradient of sum w_ij |x_i - x_j|^2 by x_i is 2 (sum_j w_ij + sum_j w_ji) x_i - 2 sum_j (w_ij + w_ji) x_j.
        as_anchor = torch.zeros_like(far)
        as_partner = torch.zeros_like(far)
        gradient = torch.zeros_like(points)
        for rows, distances, _, negatives in distance_blocks(points, labels):
            shares = torch.where(negatives, -distances - near[rows, None], distances.sub_(far[rows, None])).exp_()
            shares.mul_(torch.where(negatives, -nearness[rows, None], farness[rows, None]))
            shares.diagonal(rows.start).fill_(0)  # a row is no partner of its own
            as_anchor[rows] = shares.sum(1)
            as_partner += shares.sum(0)
            gradient[rows] -= shares @ points
            gradient -= shares.T @ points[rows]
        return gradient.add_((as_anchor + as_partner)[:, None] * points).mul_(2), None, None, None
