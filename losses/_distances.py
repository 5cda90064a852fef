"""Distances of a batch to columns, some rows at a time, without a graph.

A distance is "euclidean", "squared" (its square) or "cosine" (1 - cosine).
"""

from typing import Literal, NamedTuple

import torch

from core.slices import numbers_at_once, slices_within
from losses._mined import Reference
from losses._pair_distances import BLOCK, centred, squared_distances
from losses._unit_vectors import normalise

Distance = Literal["euclidean", "squared", "cosine"]


class Points(NamedTuple):
    """What a batch is compared with: columns (C, D), of which the first `batch` are the batch itself."""

    columns: torch.Tensor
    squares: torch.Tensor | None  # (C,) squared lengths; None where cosines are taken
    batch: int
    distance: Distance

    def blocks(self) -> list[slice]:
        """Slices of the batch's rows whose tables hold BLOCK numbers, more on an accelerator."""
        return slices_within(self.batch, len(self.columns), numbers_at_once(self.columns.device.type, BLOCK))

    def table(self, rows: slice) -> torch.Tensor:
        """Distances (m, C) of some rows of the batch to all columns."""
        if self.distance == "cosine":
            return 1 - self.columns[rows] @ self.columns.T
        squared = squared_distances(self.columns[rows], self.squares[rows], self.columns, self.squares)
        return squared.sqrt_() if self.distance == "euclidean" else squared


@torch.no_grad()
def placed(
    embeddings: torch.Tensor, reference: Reference | None, distance: Distance, unit_length: bool = False
) -> Points:
    """The points between which `distance` is taken: a batch (B, D), and a reference's rows behind it.

    Of unit length where asked for, or where cosines are taken; else moved so that their mean is the origin, which
    changes no distance and leaves less to rounding.
    """
    columns = embeddings
    if reference is not None:
        columns = torch.cat([embeddings, reference.embeddings.to(embeddings.dtype)])
    if unit_length or distance == "cosine":
        columns = normalise(columns)
    if distance == "cosine":
        return Points(columns, None, len(embeddings), distance)
    columns = centred(columns)
    return Points(columns, columns.square().sum(1), len(embeddings), distance)
