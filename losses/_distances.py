"""Distances of a batch to columns, some rows at a time.

A distance is "euclidean", "squared" (its square) or "cosine" (1 - cosine).
"""

from typing import Literal

import torch

from core.slices import numbers_at_once, slices_within
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


def blocks(rows: torch.Tensor, columns: torch.Tensor) -> list[slice]:
    """Slices of rows (B, D) whose tables against columns (C, D) hold BLOCK numbers, more on an accelerator."""
    return slices_within(len(rows), len(columns), numbers_at_once(rows.device.type, BLOCK))
