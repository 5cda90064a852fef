"""Negatives drawn evenly over distances (Wu et al., 2017, arXiv 1706.07567, section 4)."""

from typing import NamedTuple

import numpy as np
import torch

from core.errors import InputError
from core.types import AboveZero
from losses._distances import placed
from losses._mined import Reference, Triplets, column_labels
from miners._blocks import concatenated
from miners._draws import shared_generator
from miners._mining import mining
from miners._registry import MINERS

FARTHEST = 2  # distance of two points of the unit sphere


@MINERS.register("distance_weighted", gives="triplets")
class DistanceWeightedMiner:
    """An anchor has as many triplets as its label has columns (itself among them), each of a positive, drawn evenly,
    and a negative, drawn by the inverse of the density of its distance (pytorch-metric-learning's
    DistanceWeightedMiner).

    On the unit sphere of D dimensions distances d between random points have the density
    q(d) = d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2), nearly all of it around sqrt(2). Weights are 1 / q(max(d, cutoff)).

    Options:
        cutoff: distance below which negatives are drawn as if they were so far, since their gradients are noise
        nonzero_loss_cutoff: distance from which on no negative is drawn
    """

    def __init__(self, cutoff: AboveZero = 0.5, nonzero_loss_cutoff: AboveZero = 1.4) -> None:
        if not 0 < cutoff < nonzero_loss_cutoff:
            raise InputError(f"cutoff={cutoff} is not between 0 and nonzero_loss_cutoff={nonzero_loss_cutoff}")
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,); draws from torch's generator."""
        generator = shared_generator(embeddings.device)
        same = same_label_columns(labels, reference)
        even = same.positive.to(embeddings.dtype)
        most = same.columns.shape[1]
        points = placed(embeddings, reference, "squared", unit_length=True)
        found = []
        for rows in points.blocks():
            squared = points.table(rows).scatter_(1, same.columns[rows], FARTHEST**2)
            # Marks from 0 to 1: the same ones whatever the embeddings' type.
            size = (2, len(squared), most)
            for_positives, for_negatives = torch.rand(
                size, generator=generator, device=squared.device, dtype=torch.float32
            )
            positives, has_positive = drawn(even[rows], for_positives)
            negatives, has_negative = drawn(self._weights(squared, embeddings.shape[1]), for_negatives)
            positives = same.columns[rows].gather(1, positives)
            # All rows draw as often as the largest label asks for; a row keeps as many as its own does.
            kept = (same.distinct[rows] & has_positive & has_negative).flatten().nonzero()[:, 0]
            anchors = kept // most + rows.start
            found.append((anchors, positives.flatten()[kept], negatives.flatten()[kept]))
        return Triplets(*concatenated(found))

    def _weights(self, squared: torch.Tensor, width: int) -> torch.Tensor:
        """1 / q of squared distances (m, C) on the sphere of `width` dimensions, times what is one for a row; 0 for
        what is too far. Writes over the distances.

        Of 512 dimensions a near column weighs e^300 times as much as most others, and one that may not be drawn, such
        as the row itself, would leave nothing of them.
        """
        # Numbers, not bools: comparisons that write numbers are several times as fast, and so is what reads them.
        near = torch.lt(squared, min(self.nonzero_loss_cutoff, FARTHEST) ** 2, out=torch.empty_like(squared))
        squared.mul_(near).clamp_min_(self.cutoff**2)
        # With s = d^2, 1 / q is (s (1 - s / 4))^((3 - D) / 2) / sqrt(s), so that one logarithm is enough.
        logs = torch.addcmul(squared, squared, squared, value=-1 / 4).log_().mul_((3 - width) / 2)
        logs.add_(near - 1, alpha=torch.finfo(logs.dtype).max / 4)
        return logs.softmax(1).mul_(near).mul_(squared.rsqrt_())


def drawn(weights: torch.Tensor, marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns (m, K) of rows of weights (m, C), where marks (m, K), drawn from [0, 1), fall on the sums of weights; and
    which of these have a weight: all of a row, or none where all its weights are zero.

    torch.multinomial draws the same way, one row after the other, and takes longer.
    """
    sums = weights.cumsum(1)
    columns = torch.searchsorted(sums, marks * sums[:, -1:], right=True).clamp_max_(weights.shape[1] - 1)
    return columns, weights.gather(1, columns) > 0


class SameLabel(NamedTuple):
    """The columns of each row's own label, K being the most that a label has.

    columns (B, K) int64; a row that has fewer has its first one again there. distinct (B, K): whether a column stands
    there for the first time. positive (B, K): whether it is a positive: distinct, neither the row itself nor a
    reference row of the same image.
    """

    columns: torch.Tensor
    distinct: torch.Tensor
    positive: torch.Tensor


def same_label_columns(labels: torch.Tensor, reference: Reference | None) -> SameLabel:
    """SameLabel of labels (B,). They are read on the host, where this takes a third of the time: on a GPU it is the one
    thing that the miner waits for."""
    everyone = column_labels(labels, reference).cpu().numpy()
    own = everyone[: len(labels)]
    order = everyone.argsort(kind="stable")
    ordered = everyone[order]
    first = np.searchsorted(ordered, own)
    count = np.searchsorted(ordered, own, side="right") - first
    steps = np.arange(count.max())
    distinct = steps < count[:, None]
    columns = order[first[:, None] + steps * distinct]
    positive = distinct & (columns != np.arange(len(own))[:, None])
    if reference is not None:
        behind = columns - len(own)
        images = reference.images.cpu().numpy()[behind.clip(min=0)]
        positive &= (behind < 0) | (images != reference.batch_images.cpu().numpy()[:, None])
    tables = (columns, distinct, positive)
    return SameLabel(*(torch.from_numpy(table).to(labels.device, non_blocking=True) for table in tables))
