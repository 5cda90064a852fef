"""What a solver finds: x -> W (x - mean), and how features are spread."""

from typing import NamedTuple

import torch

from core.errors import InputError
from core.text import counted

BLOCK = 4096  # rows that are lifted to float64 at a time


class Affine(NamedTuple):
    """x W^T + b, float64."""

    weight: torch.Tensor  # (d, D)
    bias: torch.Tensor  # (d,)


class Clicks(NamedTuple):
    """Differences of features of pairs that people called the same, `right` (P, D), and of those that are not, `wrong`
    (Q, D)."""

    right: torch.Tensor
    wrong: torch.Tensor


class Spread(NamedTuple):
    """How N features of C labels are spread, float64.

    within: covariance (D, D) about the mean of the own label, over the rows of labels that have two or more. total:
    about the mean of all. shared: rows whose label has another row.
    """

    mean: torch.Tensor
    within: torch.Tensor
    total: torch.Tensor
    shared: int


def spread_of(features: torch.Tensor, codes: torch.Tensor) -> Spread:
    """The Spread of features (N, D) on the CPU with labels (N,) 0..C-1."""
    counts = codes.bincount()
    shared = int(counts[counts > 1].sum())
    width = features.shape[1]
    means = torch.zeros(len(counts), width, dtype=torch.float64)
    for block, labels in zip(features.split(BLOCK), codes.split(BLOCK)):
        means.index_add_(0, labels, block.double())
    mean = means.sum(0) / len(features)
    means /= counts.clamp(min=1)[:, None]

    # A row that is alone is its label's mean, and adds nothing to the scatter within.
    within = torch.zeros(width, width, dtype=torch.float64)
    for block, labels in zip(features.split(BLOCK), codes.split(BLOCK)):
        deviations = block.double() - means[labels]
        within.addmm_(deviations.T, deviations)
    between = (means - mean) * counts[:, None].sqrt()
    total = (within + between.T @ between) / len(features)
    return Spread(mean, within / max(1, shared), total, shared)


def principal_axes(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances (D,), falling, and their directions (D, D), a row each, whose largest number is positive."""
    variances, vectors = torch.linalg.eigh(covariance)
    axes = vectors.flip(1).T
    # An eigenvector has no sign of its own: what stands first in some library would decide.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return variances.flip(0).clamp(min=0), axes * signs


def centred(weight: torch.Tensor, spread: Spread) -> Affine:
    """W (x - mean), times the one number that makes the mean square length of the train embeddings 1.

    No cosine sees that number; losses that compare lengths and a learning rate do. Raises InputError where all train
    features are the same.
    """
    square_length = ((weight @ spread.total) * weight).sum()
    if not square_length > 0:
        raise InputError("all train features are the same; there is nothing to tell images apart by")
    weight = weight / square_length.sqrt()
    return Affine(weight, -weight @ spread.mean)


def check_dimensions(dimensions: int, width: int) -> None:
    """Raise InputError for more dimensions than features have."""
    if dimensions > width:
        raise InputError(f"dimensions is {dimensions}, but the features have {counted(width, 'number')}")
