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
    rows = anchors_of(embeddings, labels, reference, distance, unit)
    chosen = None
    if rule is not None:
        chosen = chosen_by(rule, embeddings, labels, reference)

    def row_terms(block: Block) -> tuple[torch.Tensor, ...]:
        distances = distances_of_scores(block.scores, distance)
        keep = None if chosen is None else chosen(block.rows)
        values, slopes, *figures = triplet_terms(block, distances, margin, keep)
        return values, slopes_by_scores(slopes, distances, distance), *figures

    loss, _, *figures = rows.sums(row_terms)
    return Sums(loss, *(figure.sum() for figure in figures))


def anchors_of(
    embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None, distance: Distance, unit: bool
) -> RankedRows:
    """Rows of a batch, of which each is an anchor; of equal batches the blocks are the same, whatever the distance."""
    cosine = distance == "cosine"
    return RankedRows(
        embeddings, labels, reference, with_self=False, unit=unit or cosine, distances=not cosine, at_once=FEW
    )


def distances_of_scores(scores: torch.Tensor, distance: Distance) -> torch.Tensor:
    """Distances (m, C) of what RankedRows holds: cosines, or squared distances."""
    if distance == "cosine":
        return 1 - scores
    return scores.sqrt() if distance == "euclidean" else scores


def slopes_by_scores(slopes: torch.Tensor, distances: torch.Tensor, distance: Distance) -> torch.Tensor:
    """Slopes (m, C) by distances, which may be written over, as those by the scores; none where a root is zero."""
    if distance == "cosine":
        return slopes.neg_()
    if distance == "euclidean":
        return slopes.div_(torch.where(distances > 0, 2 * distances, torch.inf))
    return slopes


def chosen_by(
    rule: TripletRule, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None
) -> Callable[[slice], torch.Tensor]:
    """A function of a block's rows: 1 for the triplets (m, P, C) that a rule chooses, else 0.

    The rule's own distances are made of these rows alone, so that no second table of all is held.
    """
    rows = anchors_of(embeddings.detach(), labels, reference, rule.distance, rule.unit)

    def chosen(numbers: slice) -> torch.Tensor:
        (block,) = rows.blocks(numbers, rows.scores(numbers))
        distances = distances_of_scores(block.scores, rule.distance)
        gaps = block.negatives(distances)[:, None] - block.own(distances)[:, :, None]
        return ((gaps > 0) & (gaps <= rule.width)).to(gaps.dtype)

    return chosen


def triplet_terms(
    block: Block, distances: torch.Tensor, margin: float | None, keep: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Of the triplets of a block's rows: sums of losses (m,), their slopes by the distances (m, C), and (m,) each how
    many there are, how many have a loss, sums of the distances to positives and to negatives.

    keep (m, P, C): 1 for the triplets that count, else 0; None for all.
    """
    positives = block.own(distances)
    negatives = block.negatives(distances)
    present = negatives < torch.inf
    if margin is None:
        values, by_negative, by_positive, active = softpluses(positives, negatives, keep)
    else:
        values, by_negative, by_positive = hinges(positives + margin, negatives, keep)
        active = by_positive.sum(1)
    slopes = by_negative.neg_().scatter_add_(1, block.positives, by_positive)

    if keep is None:
        of_positives = present.sum(1, keepdim=True).expand_as(positives)
        of_negatives = block.count
    else:
        of_positives = keep.sum(2)
        of_negatives = keep.sum(1)
    to_positives = (positives * of_positives).sum(1)
    to_negatives = (negatives.masked_fill(~present, 0) * of_negatives).sum(1)
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
    above = (edges.shape[1] - below).to(values.dtype)
    # Entry k: the sum of the edges from k on; after the last edge, none.
    suffixes = F.pad(edges.flip(1).cumsum(1).flip(1), (0, 1))
    sums = suffixes.gather(1, below).addcmul_(above, values.masked_fill(above == 0, 0), value=-1)
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
