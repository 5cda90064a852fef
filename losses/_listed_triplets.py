"""Triplets that a miner listed: only distances that they name are looked at.

Few are taken one by one, from the difference of both ends. Of many, all distances of a batch are one product, and so is
what slopes make of the gradient, however long the list is.
"""

import torch
import torch.nn.functional as F

from losses._distances import Distance
from losses._mined import Reference, Triplets
from losses._pair_distances import BLOCK
from losses._rows import ScoreTable, carried
from losses._slopes import wants_gradient, with_gradient
from losses._triplets import Sums, distances_of_scores, slopes_by_scores
from losses._unit_vectors import through_scaling


def sum_over_list(
    mined: Triplets,
    embeddings: torch.Tensor,
    reference: Reference | None,
    margin: float | None,
    distance: Distance,
    unit: bool,
) -> Sums:
    """Sums over the triplets that were mined of embeddings (B, D) and a reference; see `sum_over_triplets`."""
    gradient = None
    with_slopes = wants_gradient(embeddings)
    with torch.no_grad():
        pairs = pairs_of(mined, embeddings, reference, distance, unit)
        to_positives, to_negatives = pairs.distances.view(2, -1)
        losses = losses_of_triplets(to_positives, to_negatives, margin)
        steepness = losses.sign() if margin is not None else (to_positives - to_negatives).sigmoid_()
        figures = (
            losses.new_full((), len(losses)),
            losses.count_nonzero().to(losses.dtype),
            to_positives.sum(),
            to_negatives.sum(),
        )
        if with_slopes:
            gradient = pairs.gradient(torch.cat([steepness, -steepness]))
            if pairs.table.lengths is not None:
                gradient = through_scaling(gradient, pairs.table.directions, pairs.table.lengths)
        loss = losses.sum()
    return Sums(with_gradient(loss, embeddings, gradient), *figures)


def pairs_of(
    mined: Triplets, embeddings: torch.Tensor, reference: Reference | None, distance: Distance, unit: bool
) -> "OneByOne | OutOfTable":
    """Each anchor with its positive, then each with its negative: both at once, so that a table is made once."""
    anchors = torch.cat([mined.anchors, mined.anchors])
    partners = torch.cat([mined.positives, mined.negatives])
    cosine = distance == "cosine"
    columns = len(embeddings) + (0 if reference is None else len(reference.labels))
    if len(anchors) * embeddings.shape[1] <= max(BLOCK, len(embeddings) * columns):
        table = ScoreTable(embeddings, reference, unit=unit or cosine, distances=False)
        return OneByOne(table, anchors, partners, distance)
    table = ScoreTable(embeddings, reference, unit=unit or cosine, distances=not cosine)
    return OutOfTable(table, anchors, partners, distance)


class OneByOne:
    """Pairs (P,) of a batch's rows and columns, each looked at by itself; `distances` (P,)."""

    def __init__(self, table: ScoreTable, anchors: torch.Tensor, partners: torch.Tensor, distance: Distance) -> None:
        self.table, self.anchors, self.partners, self.distance = table, anchors, partners, distance
        self.left = table.columns.index_select(0, anchors)
        self.right = table.columns.index_select(0, partners)
        if distance == "cosine":
            self.distances = 1 - torch.linalg.vecdot(self.left, self.right)
        else:
            # Both ends are pulled along their difference.
            self.left.sub_(self.right)
            self.right = -self.left
            self.distances = torch.linalg.vector_norm(self.left, dim=1)
            if distance == "squared":
                self.distances.square_()

    def gradient(self, slopes: torch.Tensor) -> torch.Tensor:
        """(B, D) to the table's rows of slopes (P,) by the distances."""
        pulls = slopes_by_scores(slopes, self.distances, self.distance)[:, None]
        to_left, to_right = self.right, self.left
        if self.distance != "cosine":
            pulls, to_left, to_right = 2 * pulls, self.left, self.right
        # A row behind the batch's takes what the reference's rows get, which have no gradient.
        batch = self.table.batch
        gradient = to_left.new_zeros(batch + 1, to_left.shape[1])
        gradient.index_add_(0, self.anchors, to_left.mul_(pulls))
        return gradient.index_add_(0, self.partners.clamp_max(batch), to_right.mul_(pulls))[:batch]


class OutOfTable:
    """What OneByOne is, of pairs that are looked up in the table of all scores."""

    def __init__(self, table: ScoreTable, anchors: torch.Tensor, partners: torch.Tensor, distance: Distance) -> None:
        self.table, self.distance = table, distance
        self.scores = table.scores(slice(0, table.batch))
        self.places = anchors * len(table.columns) + partners
        self.distances = distances_of_scores(self.scores.flatten()[self.places], distance)

    def gradient(self, slopes: torch.Tensor) -> torch.Tensor:
        """(B, D) to the table's rows of slopes (P,) by the distances; writes over the table."""
        slopes = slopes_by_scores(slopes, self.distances, self.distance)
        self.scores.zero_().flatten().index_add_(0, self.places, slopes)
        return carried(self.scores, self.table)


def losses_of_triplets(positives: torch.Tensor, negatives: torch.Tensor, margin: float | None) -> torch.Tensor:
    """The loss (T,) of each triplet by its distances (T,) to positive and negative; margin None: the soft one."""
    if margin is None:
        return F.softplus(positives - negatives)
    return F.relu(positives - negatives + margin)
