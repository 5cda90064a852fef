"""Losses that are a sum over rows of what a row makes of its similarities, or distances, to all columns.

Columns are the batch's rows, then those of a memory. A loss says what the values of some rows are, and how steep they
are in each score, while those numbers are in the cache; the slopes are written over the scores. So a batch takes two
products: the scores, and slopes times columns (three where it is too large to be held). Nothing else of B x C is kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from core.slices import slices_within
from losses._mined import Reference
from losses._pair_distances import centred, squared_distances
from losses._slopes import wants_gradient, with_gradient
from losses._unit_vectors import lengths, normalise, through_scaling

HELD = 2**24  # scores, later slopes, that are held at once: 64 MB
TILE = 256

Made = TypeVar("Made")


class Block(Protocol):
    """Some rows of a batch and all columns."""

    rows: slice
    scores: torch.Tensor  # (m, C) similarities or squared distances


class ScoreTable:
    """Rows of a batch, the columns that they are compared with, and their scores.

    unit: rows and columns are scaled to length one. distances: scores are squared Euclidean distances, never negative,
    in place of similarities.
    """

    # Whether both ends of a pair within the batch have the same slope.
    symmetric = False

    def __init__(
        self,
        embeddings: torch.Tensor,
        reference: Reference | None = None,
        *,
        unit: bool = True,
        distances: bool = False,
    ) -> None:
        self.embeddings = embeddings
        self.batch = len(embeddings)
        self.reference = reference
        self.distances = distances
        self.columns = embeddings.detach()
        self.lengths = None
        if unit:
            self.lengths = lengths(self.columns)[:, None]
            self.columns = self.columns / self.lengths
        self.directions = self.columns
        if reference is not None:
            others = reference.embeddings.detach().to(self.columns)
            if unit:
                others = normalise(others)
            self.columns = torch.cat([self.columns, others])
        if distances:  # moved so that their mean is the origin: the same distances, with less rounding
            self.columns = centred(self.columns)
            self.squares = self.columns.square().sum(1)
        self.rows = self.columns[: self.batch]
        self._scores = None

    def scores(self, band: slice) -> torch.Tensor:
        """(m, C) similarities or squared distances of a band's rows; those of a whole batch are made once."""
        if self._scores is not None:
            return self._scores
        if self.distances:
            scores = squared_distances(self.rows[band], self.squares[band], self.columns, self.squares)
        else:
            scores = self.rows[band] @ self.columns.T
        if len(scores) == self.batch:
            self._scores = scores
        return scores


class Rows(ScoreTable, ABC):
    """Rows of a batch against columns, block by block."""

    @abstractmethod
    def blocks(self, band: slice, scores: torch.Tensor) -> Iterator[Block]:
        """Blocks of a band's rows and their scores (m, C); what is written over a block's is written over these."""

    @property
    def is_held(self) -> bool:
        """Whether the scores of all rows are held at once."""
        return self.batch * len(self.columns) <= HELD

    def bands(self) -> Iterator[slice]:
        """The rows whose scores are held at once: all of them, or some at a time."""
        yield from slices_within(self.batch, len(self.columns), HELD)

    def all_blocks(self) -> Iterator[Block]:
        """Blocks of all rows, only to look at."""
        for band in self.bands():
            yield from self.blocks(band, self.scores(band))

    def once_if_whole(self, make: Callable[[Block], Made]) -> Callable[[Block], Made]:
        """`make`, a function of a block, for losses that go through the batch several times: where one block has all
        rows, it is called once, and what it made is kept."""
        made = []

        def of(block: Block) -> Made:
            if len(block.scores) < self.batch:
                return make(block)
            if not made:
                made.append(make(block))
            return made[0]

        return of

    def sums(self, row_terms: Callable[[Block], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """(sum of the rows' values, with a gradient to the embeddings; the values (B,); further figures (B,) each).

        row_terms(block): values (m,), their slopes (m, C) by the block's scores, and figures (m,). To be called once,
        and last, since it writes over the scores. Rows that are in no block have no values.
        """
        total, gradient, values, figures = self._summed(row_terms, wants_gradient(self.embeddings))
        return with_gradient(total, self.embeddings, gradient), values, *figures

    @torch.no_grad()
    def _summed(
        self, row_terms: Callable[[Block], tuple[torch.Tensor, ...]], with_slopes: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, list[torch.Tensor]]:
        """The sum, its gradient to the embeddings (B, D) unless slopes are left out, the values, the figures."""
        gradient = None
        if with_slopes and not self.is_held:
            gradient = torch.zeros_like(self.directions)
        found = []
        for band in self.bands():
            held = self.scores(band)
            for block in self.blocks(band, held):
                values, slopes, *figures = row_terms(block)
                found.append((values, *figures))
                if len(slopes) == len(held):  # one block has all rows of the band
                    held = slopes
                else:
                    block.scores.copy_(slopes)
            if not with_slopes:
                continue
            if self.is_held:
                gradient = carried(held, self)
            else:
                carry(held, self, band, gradient)
        if self.lengths is not None and gradient is not None:
            gradient = through_scaling(gradient, self.directions, self.lengths)
        values, *figures = found[0]
        if len(found) > 1:
            values, *figures = (torch.cat(parts) for parts in zip(*found, strict=True))
        return values.sum(), gradient, values, figures


def carried(slopes: torch.Tensor, batch: ScoreTable) -> torch.Tensor:
    """What the slopes (B, C) of all values by their scores make of the gradient (B, D) of the batch's rows.

    Both ends of a pair move, and their slopes are one table: row i takes slopes_ij column_j, and where column j is a
    row of the batch it takes slopes_ij row_i. Of a squared distance |x - y|^2 an end x takes 2 slopes_ij (x - y), which
    is -2 slopes_ij for y, and for itself the negative of all that its row has. Writes over the slopes.
    """
    within = slopes[:, : batch.batch]
    if batch.symmetric:
        within.mul_(2)
    else:
        add_transposed(within)
    if batch.distances:
        slopes.mul_(-2)
        within.diagonal().sub_(slopes.sum(1))
    return slopes @ batch.columns


def carry(slopes: torch.Tensor, batch: ScoreTable, band: slice, gradient: torch.Tensor) -> None:
    """Add to the batch's gradient (B, D) what `carried` says, of the slopes (m, C) of a band's values."""
    within = slopes[:, : batch.batch]
    factor = -2 if batch.distances else 1
    gradient.addmm_(within.T, batch.rows[band], alpha=factor)
    gradient[band].addmm_(slopes, batch.columns, alpha=factor)
    if batch.distances:
        gradient.addcmul_(within.sum(0)[:, None], batch.rows, value=2)
        gradient[band].addcmul_(slopes.sum(1, keepdim=True), batch.rows[band], value=2)


def add_transposed(table: torch.Tensor) -> None:
    """Add the transpose of a square table to it, in place, in tiles that the cache holds."""
    if len(table) <= TILE or table.device.type != "cpu":
        table.add_(table.T.clone())
        return
    for top in range(0, len(table), TILE):
        for left in range(top, len(table), TILE):
            upper = table[top : top + TILE, left : left + TILE]
            lower = table[left : left + TILE, top : top + TILE]
            both = upper + lower.T
            upper.copy_(both)
            if left > top:
                lower.copy_(both.T)
