"""Distances of a batch to columns, some rows at a time, and what slopes by distances are as slopes by embeddings.

A distance is "euclidean", "squared" (its square) or "cosine" (1 - cosine).
"""

from typing import Literal

import torch

from core.slices import slices_within
from losses._mined import Reference
from losses._pair_distances import BLOCK
from losses._unit_vectors import normalise

Distance = Literal["euclidean", "squared", "cosine"]


def placed(
    embeddings: torch.Tensor, reference: Reference | None, distance: Distance, unit_length: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows (B, D), columns (C, D)) between which `distance` is taken: the batch, and the batch with the reference.

    Of unit length where asked for, or where cosines are taken; else moved so that the batch's mean is the origin, which
    changes no distance and leaves less to rounding.
    """
    columns = embeddings
    if reference is not None:
        columns = torch.cat([embeddings, reference.embeddings.to(embeddings.dtype)])
    if unit_length or distance == "cosine":
        columns = normalise(columns)
    if distance != "cosine":
        columns = columns - columns[: len(embeddings)].detach().mean(0)
    return columns[: len(embeddings)], columns


def column_labels(labels: torch.Tensor, reference: Reference | None) -> torch.Tensor:
    """Labels (C,) of the columns."""
    return labels if reference is None else torch.cat([labels, reference.labels.to(labels)])


def table(rows: torch.Tensor, columns: torch.Tensor, distance: Distance) -> torch.Tensor:
    """Distances (m, C) of rows (m, D) to columns (C, D), as `placed` gives them."""
    if distance == "cosine":
        return 1 - rows @ columns.T
    squares = rows.square().sum(1, keepdim=True) + columns.square().sum(1)
    squared = torch.addmm(squares, rows, columns.T, alpha=-2).clamp_min(0)
    return root(squared) if distance == "euclidean" else squared


def root(squared: torch.Tensor) -> torch.Tensor:
    """Square roots, whose slope at zero is zero instead of infinite."""
    if not squared.requires_grad:
        return squared.sqrt()
    apart = squared > 0
    return torch.where(apart, squared, 1).sqrt() * apart


def distances_of(
    rows: torch.Tensor, columns: torch.Tensor, anchors: torch.Tensor, partners: torch.Tensor, distance: Distance
) -> torch.Tensor:
    """Distances (P,) of chosen pairs, rows[anchors] to columns[partners], with their graph.

    Few pairs are taken one by one, many out of the whole table, which then holds fewer numbers.
    """
    if len(anchors) * rows.shape[1] > max(BLOCK, len(rows) * len(columns)):
        return table(rows, columns, distance).flatten()[anchors * len(columns) + partners]
    left = rows.index_select(0, anchors)
    right = columns.index_select(0, partners)
    if distance == "cosine":
        return 1 - (left * right).sum(1)
    gaps = left - right
    return gaps.norm(dim=1) if distance == "euclidean" else gaps.square().sum(1)


class Slopes:
    """Adds up slopes by distances of all row blocks, as slopes by the rows (B, D) of a batch in `total()`."""

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, distance: Distance) -> None:
        self.rows = rows
        self.columns = columns
        self.distance = distance
        self._products = torch.zeros_like(rows)
        # The gradient of w |x - y|^2 by x is 2 w x - 2 w y: what stands before the row itself is kept apart.
        self._shares = rows.new_zeros(len(rows))

    def add(self, block: slice, slopes: torch.Tensor, distances: torch.Tensor) -> None:
        """slopes (m, C), which may be written over, by the distances (m, C) of the rows of `block` to all columns."""
        if self.distance == "euclidean":
            slopes = slopes.div_(torch.where(distances > 0, distances, torch.inf))
        own = slopes[:, : len(self.rows)]
        self._products[block].addmm_(slopes, self.columns, alpha=-1)
        self._products.addmm_(own.T, self.rows[block], alpha=-1)
        if self.distance != "cosine":
            self._shares[block] += slopes.sum(1)
            self._shares += own.sum(0)

    def total(self) -> torch.Tensor:
        gradient = self._products.addcmul_(self._shares[:, None], self.rows)
        return gradient.mul_(2) if self.distance == "squared" else gradient


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows whose tables of so many columns hold BLOCK numbers."""
    return slices_within(rows, columns, BLOCK)
