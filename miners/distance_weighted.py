"""Negatives drawn evenly over distances (Wu et al., 2017, arXiv 1706.07567, section 4)."""

from typing import NamedTuple

import torch

from core.errors import InputError
from core.types import AboveZero
from losses._mined import Reference, Triplets, column_labels
from miners._blocks import blocks_of, concatenated
from miners._draws import shared_generator
from miners._mining import mining
from miners._registry import MINERS


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
        found = []
        for block in blocks_of(embeddings, labels, reference, unit_length=True):
            rows = slice(block.first, block.first + len(block.distances))
            weights = self._weights(block.distances, block.negatives, embeddings.shape[1])
            positives = drawn(same.positive[rows].to(weights.dtype), same.columns.shape[1], generator)
            negatives = drawn(weights, same.columns.shape[1], generator)
            # All rows draw as often as the largest label asks for; a row keeps as many as its own does.
            possible = same.positive[rows].any(1) & (weights > 0).any(1)
            anchors, draws = (same.distinct[rows] & possible[:, None]).nonzero(as_tuple=True)
            positives = same.columns[rows].gather(1, positives)
            found.append((anchors + block.first, positives[anchors, draws], negatives[anchors, draws]))
        return Triplets(*concatenated(found))

    def _weights(self, distances: torch.Tensor, negatives: torch.Tensor, width: int) -> torch.Tensor:
        """1 / q of distances (m, C) on the sphere of `width` dimensions, a row's sum being 1; 0 for what is no negative
        (m, C) and for what is too far.

        Of 512 dimensions a near column weighs e^300 times as much as most others, and one that may not be drawn, such
        as the row itself, would leave nothing of them.
        """
        distances = distances.clamp_min(self.cutoff)
        allowed = negatives & (distances < min(self.nonzero_loss_cutoff, 2))
        logs = (2 - width) * distances.log() - (width - 3) / 2 * (1 - distances.square() / 4).log()
        return torch.where(allowed, logs, -torch.inf).softmax(1).nan_to_num(0)


def drawn(weights: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """So many columns (m, number) of each row of weights (m, C), with repetition; any where all weights are zero."""
    without = (weights <= 0).all(1, keepdim=True)
    return torch.where(without, 1, weights).multinomial(number, replacement=True, generator=generator)


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
    """SameLabel of labels (B,). On a GPU, K is read back: the one time that the miner waits for it."""
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
