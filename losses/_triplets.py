"""All triplets of a batch without a list of them: every anchor's positives against its negatives.

A triplet's loss is max(0, p - n + margin), or log(1 + exp(p - n)). Few positives of an anchor meet its negatives one by
one, in tables (m, P, C) of m anchors. Of many, the edges p + margin are put in order: one search tells for each
negative how many edges lie above it, so that all hinges take O(log P) a negative.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from losses._distances import Distance
from losses._mined import Reference, TripletRule
from losses._rank_rows import Block, RankedRows

FEW = 16  # edges up to which every edge meets every value


class Sums(NamedTuple):
    """Of all triplets: the sum of losses, with a gradient; without one, how many there are, how many have a loss above
    zero, and the sums of the distances to their positives and to their negatives."""

    loss: torch.Tensor
    count: torch.Tensor
    active: torch.Tensor
    positive_distance: torch.Tensor
    negative_distance: torch.Tensor


def sum_over_triplets(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    reference: Reference | None,
    margin: float | None,
    distance: Distance,
    unit: bool,
    rule: TripletRule | None = None,
) -> Sums:
    """Sums over all triplets of embeddings (B, D) and labels (B,), or over those that a rule chooses.

    margin None: the soft one. unit: scaled to length one, as cosines always are. Columns take a gradient as far as they
    are rows of the batch.
    """
    rows = RankedRows(embeddings, labels, reference, with_self=False, at_once=FEW, **scores_for(distance, unit))
    chosen = None
    if rule is not None:
        chosen = chosen_by(rule, rows, distance, unit)

    def row_terms(block: Block) -> tuple[torch.Tensor, ...]:
        distances = distances_of_scores(block.scores, distance)
        keep = None if chosen is None else chosen(block, distances)
        values, slopes, *figures = triplet_terms(block, distances, margin, keep)
        return values, slopes_by_scores(slopes, distances, distance), *figures

    loss, _, *figures = rows.sums(row_terms)
    return Sums(loss, *(figure.sum() for figure in figures))


def scores_for(distance: Distance, unit: bool) -> dict[str, bool]:
    """Which scores of a batch hold a distance, as `unit` and `distances` of ScoreTable."""
    cosine = distance == "cosine"
    return {"unit": unit or cosine, "distances": not cosine}


def distances_of_scores(scores: torch.Tensor, distance: Distance) -> torch.Tensor:
    """Distances of such scores: cosines, or squared distances, over which roots are written."""
    if distance == "cosine":
        return 1 - scores
    return scores.sqrt_() if distance == "euclidean" else scores


def slopes_by_scores(slopes: torch.Tensor, distances: torch.Tensor, distance: Distance) -> torch.Tensor:
    """Slopes by distances as those by the scores, none where a root is zero; writes over both."""
    if distance == "cosine":
        return slopes.neg_()
    if distance == "euclidean":
        return slopes.mul_(distances.mul_(2).reciprocal_().nan_to_num_(nan=torch.nan, posinf=0))
    return slopes


def chosen_by(
    rule: TripletRule, rows: RankedRows, distance: Distance, unit: bool
) -> Callable[[Block, torch.Tensor], torch.Tensor]:
    """A function of a block of rows, between which `distance` is taken, and its distances (m, C): 1 for the triplets
    (m, P, C) that a rule chooses, else 0.

    Where the rule's own distances are others, they are made of these rows alone: no second table of all is held.
    """

    def among(block: Block, distances: torch.Tensor) -> torch.Tensor:
        gaps = block.negatives(distances)[:, None] - block.own(distances)[:, :, None]
        # Numbers, not bools: comparisons that write numbers are several times as fast, and so is what reads them.
        farther = torch.gt(gaps, 0, out=torch.empty_like(gaps))
        return gaps.le_(rule.width).mul_(farther)

    if (rule.distance, scores_for(rule.distance, rule.unit)) == (distance, scores_for(distance, unit)):
        return among
    others = rows.scored_by(**scores_for(rule.distance, rule.unit))

    def among_others(block: Block, _: torch.Tensor) -> torch.Tensor:
        (other,) = others.blocks(block.rows, others.scores(block.rows))
        return among(other, distances_of_scores(other.scores, rule.distance))

    return among_others


def triplet_terms(
    block: Block, distances: torch.Tensor, margin: float | None, keep: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Of the triplets of a block's rows: sums of losses (m,), their slopes by the distances (m, C), and (m,) each how
    many there are, how many have a loss, sums of the distances to positives and to negatives.

    keep (m, P, C): 1 for the triplets that count, else 0; None for all.
    """
    positives = block.own(distances)
    negatives = block.negatives(distances)
    if margin is None:
        values, by_negative, by_positive, active = softpluses(positives, negatives, keep)
    else:
        values, by_negative, by_positive = hinges(positives + margin, negatives, keep)
        active = by_positive.sum(1)
    slopes = by_negative.neg_().scatter_add_(1, block.positives, by_positive)

    # How many triplets each distance is part of; what is no negative has an infinite one.
    negatives.nan_to_num_(nan=torch.nan, posinf=0)
    if keep is None:
        of_positives = block.negative_counts()
        to_positives = positives.sum(1) * of_positives
        to_negatives = negatives.sum(1) * block.count
        return values, slopes, of_positives * block.count, active, to_positives, to_negatives
    of_positives = keep.sum(2)
    to_positives = of_positives.mul(positives).sum(1)
    to_negatives = negatives.mul_(keep.sum(1)).sum(1)
    return values, slopes, of_positives.sum(1), active, to_positives, to_negatives


def hinges(
    edges: torch.Tensor, values: torch.Tensor, keep: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row's max(0, e - v) over its edges e (m, K) and values v (m, C), of which infinity is none:

    sums (m,), how many edges lie above each value (m, C), how many values below each edge (m, K). keep (m, K, C): 1
    for those that count, else 0; None for all.
    """
    if edges.shape[1] > FEW and keep is None:
        ordered, order = edges.sort(1)
        sums, above, below = hinges_of_sorted(ordered, values)
        return sums.sum(1), above, torch.empty_like(below).scatter_(1, order, below)
    gaps = (edges[:, :, None] - values[:, None]).relu_()
    if keep is not None:
        gaps.mul_(keep)
    sums = gaps.sum((1, 2))
    crossed = gaps.sign_()
    return sums, crossed.sum(1), crossed.sum(2)


def hinges_of_sorted(edges: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `hinges` says of edges (m, K) that ascend, but a sum for each value (m, C)."""
    below = torch.searchsorted(edges, values, right=True)
    # Entry k: how many edges there are from k on, and their sum; after the last edge, none.
    counts = torch.arange(edges.shape[1], -1, -1, dtype=edges.dtype, device=edges.device)
    suffixes = F.pad(edges.flip(1).cumsum(1).flip(1), (0, 1))
    above = counts.expand_as(suffixes).gather(1, below)
    # Above the last edge a value is nobody's, be it infinite.
    sums = suffixes.gather(1, below).addcmul_(above, torch.minimum(values, edges[:, -1:]), value=-1)
    # A value lies below the edges from its own position on, so that the counts of positions add up.
    at = torch.zeros_like(suffixes).scatter_add_(1, below, torch.ones_like(values))
    return sums, above, at.cumsum(1)[:, :-1]


def softpluses(
    positives: torch.Tensor, negatives: torch.Tensor, keep: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row's log(1 + exp(p - n)) over positives p (m, P) and negatives n (m, C), of which infinity is none:

    sums (m,), slopes by n, negated (m, C), slopes by p (m, P), how many are above zero (m,).
    """
    gaps = positives[:, :, None] - negatives[:, None]
    if keep is not None:
        gaps.masked_fill_(keep == 0, -torch.inf)
    sums = F.softplus(gaps).sum((1, 2))
    shares = gaps.sigmoid_()
    return sums, shares.sum(1), shares.sum(2), shares.count_nonzero((1, 2))
