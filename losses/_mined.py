"""What a pair loss may be given beside its batch: rows of a memory to compare with, and the pairs that a miner chose.

Rows that a batch is compared with are called columns: the batch itself first, then the reference's rows behind it.
"""

from typing import Literal, NamedTuple

import torch


class Reference(NamedTuple):
    """Rows from outside the batch, without a gradient. `images` says which image of the train list each shows.

    A row that shows the same image as a row of the batch is no pair with it: it is an older embedding of itself.
    """

    embeddings: torch.Tensor  # (M, D)
    labels: torch.Tensor  # (M,) int64
    images: torch.Tensor  # (M,) int64
    batch_images: torch.Tensor  # (B,) int64


def column_labels(labels: torch.Tensor, reference: Reference | None) -> torch.Tensor:
    """Labels (C,) of the columns: those of the batch (B,), then the reference's."""
    if reference is None:
        return labels
    return torch.cat([labels, reference.labels.to(labels)])


class Pairs(NamedTuple):
    """Chosen pairs: anchors are rows of the batch, partners are columns; all int64."""

    positive_anchors: torch.Tensor  # (P,)
    positives: torch.Tensor  # (P,)
    negative_anchors: torch.Tensor  # (N,)
    negatives: torch.Tensor  # (N,)


class Triplets(NamedTuple):
    """Chosen triplets: anchors are rows of the batch, positives and negatives are columns; all int64 (T,)."""

    anchors: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor


class TripletRule(NamedTuple):
    """All triplets with 0 < d(a, n) - d(a, p) <= width, which are too many to be listed.

    unit: distances are those of rows scaled to length one, as cosines always are.
    """

    width: float
    distance: Literal["euclidean", "squared", "cosine"]
    unit: bool
