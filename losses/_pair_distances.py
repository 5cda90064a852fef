"""Squared distances of all pairs of a batch, some rows at a time: what is read once of B x B never exists whole.

Columns are what the rows of a batch are compared with: the batch itself, then the rows of a Reference, if there is one.
"""

from collections.abc import Iterator

import torch

from core.errors import InputError
from core.text import counted, plural
from core.slices import numbers_at_once, slices_within
from losses._mined import Reference, column_labels

BLOCK = 2**19  # numbers of the B x B that are worked on at once: they stay in the cache


def check_pairs(labels: torch.Tensor, reference: Reference | None = None) -> None:
    """Raise InputError when rows of labels (B,) and the columns have no positive or no negative pair: it would train on
    nonsense in silence.

    On the CPU alone: elsewhere reading labels would stall the device in every step, and samplers make no such batch.
    """
    if labels.device.type != "cpu":
        return
    different = len(set(labels.tolist()))
    if 1 < different < len(labels):
        return
    # What the batch lacks, its reference may have.
    columns = len(labels) + (0 if reference is None else len(reference.labels))
    positives, negatives = pair_counts(labels, reference)
    if positives.max() == 0:
        rows = counted(columns, "row")
        raise InputError(f"no label occurs twice among the {rows}; a pair loss needs two images of a label")
    if negatives.max() == 0:
        raise InputError(
            f"all {counted(columns, 'row')} {plural(columns, 'has', 'have')} label {labels[0]}; a pair loss needs two "
            "labels in a batch"
        )


def pair_counts(labels: torch.Tensor, reference: Reference | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """How many positives and how many negatives each row of a batch has among the columns, (B,) int64 each."""
    positives = _occurrences(labels, labels) - 1
    negatives = len(labels) - 1 - positives
    if reference is not None:
        of_label = _occurrences(labels, reference.labels.to(labels))
        positives += of_label - _occurrences(reference.batch_images, reference.images)
        negatives += len(reference.labels) - of_label
    return positives, negatives


def _occurrences(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """How often each of `values` (B,) occurs `among` (M,), (B,) int64."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, values, right=True) - torch.searchsorted(ordered, values)


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows (B, D) moved so that their mean is the origin: the same distances, with less rounding."""
    return rows - rows.mean(0)


def squared_distances(
    rows: torch.Tensor, row_squares: torch.Tensor, columns: torch.Tensor, column_squares: torch.Tensor
) -> torch.Tensor:
    """Squared Euclidean distances (m, C) of rows (m, D) and columns (C, D), whose squared lengths are known (m,), (C,).

    Never negative.
    """
    return torch.addmm(column_squares, rows, columns.T, alpha=-2).add_(row_squares[:, None]).clamp_min_(0)


def distance_blocks(
    points: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (rows, distances (m, C), positives (m, C), negatives (m, C)) for slices of the batch's rows.

    points (C, D): the columns, centred, of which the first B, those of `labels`, are the batch. distances are squared
    Euclidean, never negative, and may be written over; the masks are bool. A row is neither its own positive nor its
    own negative, and so is an older embedding of its image in the reference: their distance is 0.
    """
    squares = points.square().sum(1)
    of_columns = column_labels(labels, reference)
    for rows in slices_within(len(labels), len(points), numbers_at_once(points.device.type, BLOCK)):
        distances = squared_distances(points[rows], squares[rows], points, squares)
        positives = labels[rows, None] == of_columns
        negatives = ~positives
        positives.diagonal(rows.start).fill_(False)
        if reference is not None:
            same_image = reference.batch_images[rows, None] == reference.images
            distances[:, len(labels) :].masked_fill_(same_image, 0)
            positives[:, len(labels) :].masked_fill_(same_image, False)
        yield rows, distances, positives, negatives
