"""Losses that are a sum over rows of what a row makes of its similarities, or distances, to all columns.

Columns are the batch's rows, then those of a memory. A loss says what one row's value is, of a block of rows at a time,
that is still in the cache; slopes by the similarities are taken at once, by autograd within the block. So there are two
or three products in all (Gram matrix, slopes times columns, and their transpose where the batch is large), and no graph
of B x C.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from losses._mined import Pairs, Reference
from losses._unit_vectors import normalise

BLOCK = 2**17  # numbers of the rows x columns that are worked on at once: a handful of such tables fits the cache
KEPT = 2**24  # slopes that are kept until they are carried to the rows: 64 MB
TILE = 256


class Block(NamedTuple):
    """Some rows of a batch and all columns. A row is neither its own positive nor its own negative."""

    rows: slice
    scores: torch.Tensor  # (m, C) similarities or squared distances
    positives: torch.Tensor  # (m, C) bool
    negatives: torch.Tensor  # (m, C) bool


class PairRows:
    """Rows of a batch against columns, block by block.

    unit: rows and columns are scaled to length one. distances: scores are squared Euclidean distances, never negative,
    in place of similarities. `mined` names the pairs that count, each once; else all do, those within the batch from
    both of their ends, or with `once` from the earlier row alone. Reference rows of the image that a row shows are no
    pair with it.
    """

    def __init__(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None = None,
        mined: Pairs | None = None,
        *,
        unit: bool = True,
        distances: bool = False,
        once: bool = False,
    ) -> None:
        self.points = embeddings
        self.labels = labels
        self.distances = distances
        self.once = once
        self.reference = reference
        if unit:
            self.points = normalise(embeddings)
        self.rows = self.points.detach()
        self.columns = self.rows
        self.column_labels = labels
        if reference is not None:
            others = reference.embeddings.detach().to(self.rows)
            if unit:
                others = normalise(others)
            self.columns = torch.cat([self.rows, others])
            self.column_labels = torch.cat([labels, reference.labels.to(labels)])
        if distances:  # moved so that their mean is the origin: the same distances, with less rounding
            self.columns = self.columns - self.columns.mean(0)
            self.rows = self.columns[: len(labels)]
            self.squares = self.columns.square().sum(1)
        self.kinds = None
        if mined is not None:
            self.kinds = labels.new_zeros(len(labels), len(self.columns), dtype=torch.uint8)
            self.kinds[mined.positive_anchors, mined.positives] = 1
            self.kinds[mined.negative_anchors, mined.negatives] = 2

    def blocks(self, rows: range | None = None) -> Iterator[Block]:
        """Blocks of all rows, or of a range of them."""
        if rows is None:
            rows = range(len(self.rows))
        step = max(1, BLOCK // len(self.columns))
        for start in range(rows.start, rows.stop, step):
            some = slice(start, min(start + step, rows.stop))
            yield Block(some, self.scores(some), *self.masks(some))

    def scores(self, rows: slice) -> torch.Tensor:
        """(m, C) similarities or squared distances of some rows."""
        if not self.distances:
            return self.rows[rows] @ self.columns.T
        products = torch.addmm(self.squares, self.rows[rows], self.columns.T, alpha=-2)
        return products.add_(self.squares[rows, None]).clamp_min_(0)

    def masks(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Which columns (m, C) are positives, and which negatives, of some rows."""
        if self.kinds is not None:
            return self.kinds[rows] == 1, self.kinds[rows] == 2
        positives = self.labels[rows, None] == self.column_labels
        negatives = ~positives
        positives.diagonal(rows.start).fill_(False)
        if self.reference is not None:
            others = self.reference.batch_images[rows, None] != self.reference.images
            positives[:, len(self.rows) :] &= others
            negatives[:, len(self.rows) :] &= others
        if self.once:
            positives.triu_(rows.start + 1)
            negatives.triu_(rows.start + 1)
        return positives, negatives

    def sums(self, row_values: Callable[[Block], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """(sum of the rows' values, with a gradient to the embeddings; the values (B,); further figures (B,) each).

        row_values(block): the values (m,) as a differentiable function of block.scores, and figures (m,) that take no
        gradient.
        """
        return SumOfRows.apply(self.points, self, row_values)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean score of all positive and of all negative pairs within the batch, from sums of rows: no B x B."""
        rows = self.rows
        first = torch.searchsorted(self.labels.sort().values, self.labels)  # a number for each label, below B
        counts = torch.zeros_like(rows[:, 0]).index_add_(0, first, torch.ones_like(rows[:, 0]))
        by_label = torch.zeros_like(rows).index_add_(0, first, rows)
        squares = rows.square().sum()
        same = by_label.square().sum()
        positives = counts.square().sum() - len(rows)
        negatives = len(rows) ** 2 - counts.square().sum()
        similar = (same - squares) / positives.clamp_min(1)
        different = (rows.sum(0).square().sum() - same) / negatives.clamp_min(1)
        if not self.distances:
            return similar, different
        row_squares = rows.square().sum(1)
        own = counts[first]
        near = (row_squares @ (own - 1)) / positives.clamp_min(1)
        far = (row_squares @ (len(rows) - own)) / negatives.clamp_min(1)
        return (2 * (near - similar)).clamp_min(0), (2 * (far - different)).clamp_min(0)


class SumOfRows(torch.autograd.Function):
    """Sum of all rows' values, its gradient made on the way; see PairRows.sums."""

    @staticmethod
    def forward(ctx, points, pairs, row_values):
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.zeros_like(points)
        found = []
        band = max(1, KEPT // len(pairs.columns))
        for start in range(0, len(points), band):
            rows = range(start, min(start + band, len(points)))
            figures, slopes = values_and_slopes(pairs, rows, row_values, gradient is not None)
            found.append(figures)
            if gradient is not None:
                carry(slopes, pairs, rows, gradient)
        if len(found) > 1:
            values, *figures = (torch.cat(part) for part in zip(*found, strict=True))
        else:
            values, *figures = found[0]
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values, *figures)
        return values.sum(), values, *figures

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        return upstream * ctx.saved_tensors[0], None, None


def values_and_slopes(
    pairs: PairRows, rows: range, row_values: Callable, wanted: bool
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """What row_values says of a range of rows, and the slopes (m, C) of its values by the scores, if wanted."""
    found = []
    slopes = []
    for block in pairs.blocks(rows):
        with torch.set_grad_enabled(wanted):
            values, *figures = row_values(block._replace(scores=block.scores.requires_grad_(wanted)))
        if wanted:
            slopes += torch.autograd.grad(values, block.scores, torch.ones_like(values))
        found.append((values.detach(), *figures))
    if len(found) == 1:
        return found[0], slopes[0] if wanted else None
    figures = tuple(torch.cat(part) for part in zip(*found, strict=True))
    return figures, torch.cat(slopes) if wanted else None


def carry(slopes: torch.Tensor, pairs: PairRows, rows: range, gradient: torch.Tensor) -> None:
    """Add to the batch's gradient (B, D) what slopes (m, C) of a range of rows by their scores make of it.

    Both ends of a pair move: row i takes slopes_ij column_j, and where column j is a row of the batch it takes
    slopes_ij row_i. A squared distance is |x|^2 + |y|^2 - 2 x.y.
    """
    batch = len(gradient)
    some = slice(rows.start, rows.stop)
    within = slopes[:, :batch]
    if len(rows) == batch:  # what goes both ways is one product
        add_transposed(within)
        moved = slopes @ pairs.columns
        if pairs.distances:
            moved.sub_(slopes.sum(1, keepdim=True) * pairs.rows).mul_(-2)
        gradient += moved
        return
    if pairs.distances:
        gradient[some] += 2 * slopes.sum(1, keepdim=True) * pairs.rows[some]
        gradient += 2 * within.sum(0)[:, None] * pairs.rows
        slopes = slopes.mul_(-2)
    gradient[some].addmm_(slopes, pairs.columns)
    gradient.addmm_(within.T, pairs.rows[some])


def add_transposed(table: torch.Tensor) -> None:
    """Add the transpose of a square table to it, in place, in tiles that the cache holds."""
    for top in range(0, len(table), TILE):
        for left in range(top, len(table), TILE):
            upper = table[top : top + TILE, left : left + TILE]
            lower = table[left : left + TILE, top : top + TILE]
            both = upper + lower.T
            upper.copy_(both)
            lower.copy_(both.T)


class LogSumExp(torch.autograd.Function):
    """log sum_j exp(x_ij) over the columns that are kept, (m,); see log_sum_exp."""

    @staticmethod
    def forward(ctx, numbers, keep, add_one):
        shares = numbers.masked_fill(~keep, -torch.inf)
        top = shares.amax(1)
        if add_one:
            top.clamp_min_(0)
        else:
            top.clamp_min_(torch.finfo(numbers.dtype).min)  # a row without a column to keep
        total = shares.sub_(top[:, None]).exp_().sum(1)
        if add_one:
            total += (-top).exp()
        ctx.save_for_backward(shares, total)
        return torch.where(total > 0, top + total.log(), 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        shares, total = ctx.saved_tensors
        scale = upstream / torch.where(total > 0, total, 1)
        return scale[:, None] * shares, None, None


def log_sum_exp(numbers: torch.Tensor, keep: torch.Tensor, add_one: bool = False) -> torch.Tensor:
    """log(sum_j exp(x_ij) [+ 1]) (m,) of numbers (m, C) over the columns kept; 0 for a row that keeps none."""
    return LogSumExp.apply(numbers, keep, add_one)


def euclidean(squared: torch.Tensor) -> torch.Tensor:
    """Distances of squared ones between unit vectors; those lost in rounding count as coincident, without a slope."""
    return squared.clamp_min(16 * torch.finfo(squared.dtype).eps).sqrt()


def over_nonzero(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The mean of the values above zero, `total` being the sum of all, none of them below; 0 if there is none."""
    return total / (values > 0).sum().clamp_min(1)
