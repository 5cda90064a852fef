"""Losses that are a sum over rows of what a row makes of its similarities, or distances, to all columns.

Columns are the batch's rows, then those of a memory. A loss says what the values of some rows are, and how steep they
are in each score, while those numbers are in the cache; the slopes are written over the scores. So a batch takes two
products: the scores, and slopes times columns (three where it is too large to be held). Nothing else of B x C is kept.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from core.slices import slices_of, slices_within, step_within
from losses._mined import Pairs, Reference, column_labels
from losses._pair_distances import pair_counts
from losses._unit_vectors import lengths, normalise

HELD = 2**24  # scores, later slopes, that are held at once: 64 MB
BLOCK = 2**18  # numbers that are worked on at once, so that what is made of them stays in the cache
TILE = 256


class Block(NamedTuple):
    """Some rows of a batch and all columns. A row is neither its own positive nor its own negative."""

    rows: slice
    scores: torch.Tensor  # (m, C) similarities or squared distances
    positives: torch.Tensor  # (m, C), 1 where a column is a positive of the row, else 0
    negatives: torch.Tensor  # (m, C)


class PairRows:
    """Rows of a batch against columns, block by block.

    unit: rows and columns are scaled to length one. distances: scores are squared Euclidean distances, never negative,
    in place of similarities. `mined` names the pairs that count, each once; else all do, those within the batch from
    both of their ends. Reference rows of the image that a row shows are no pair with it.
    once: where all pairs count, those within the batch have a half for the 1 of their masks, so that both ends together
    count once; for losses that are a sum over pairs of something that both ends agree on.
    Raises InputError for a batch without a positive or a negative pair, unless pairs are named.
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
        if mined is None:
            pair_counts(labels)
        self.embeddings = embeddings
        self.batch = len(labels)
        self.reference = reference
        self.distances = distances
        self.symmetric = once and mined is None
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
        labels = column_labels(labels, reference)
        if distances:  # moved so that their mean is the origin: the same distances, with less rounding
            self.columns = self.columns - self.columns.mean(0)
            self.squares = self.columns.square().sum(1)
        self.rows = self.columns[: self.batch]
        # A number below C for each label: as floats they are compared several times as fast, and labels may be 2^60.
        self.groups = torch.searchsorted(labels.sort().values, labels)
        self.group_numbers = self.groups.to(self.columns.dtype)
        self.kinds = None
        if mined is not None:
            self.kinds = labels.new_zeros(self.batch, len(labels), dtype=torch.uint8)
            self.kinds[mined.positive_anchors, mined.positives] = 1
            self.kinds[mined.negative_anchors, mined.negatives] = 2
        self._scores = None
        self._sums = []

    def bands(self) -> Iterator[slice]:
        """The rows whose scores are held at once: all of them, or some at a time."""
        yield from slices_within(self.batch, len(self.columns), HELD)

    def scores(self, band: slice) -> torch.Tensor:
        """(m, C) similarities or squared distances of a band's rows; those of a whole batch are made once."""
        if self._scores is not None:
            return self._scores
        if self.distances:
            scores = torch.addmm(self.squares, self.rows[band], self.columns.T, alpha=-2)
            scores.add_(self.squares[band, None]).clamp_min_(0)
        else:
            scores = self.rows[band] @ self.columns.T
        if len(scores) == self.batch:
            self._scores = scores
        return scores

    def blocks(self, band: slice, scores: torch.Tensor) -> Iterator[Block]:
        """Blocks of a band's rows and their scores (m, C); what is written over a block's is written over these."""
        for rows in slices_of(band.stop, step_within(len(self.columns), BLOCK), band.start):
            yield Block(rows, scores[rows.start - band.start : rows.stop - band.start], *self.masks(rows))

    def all_blocks(self) -> Iterator[Block]:
        """Blocks of all rows, only to look at."""
        for band in self.bands():
            yield from self.blocks(band, self.scores(band))

    def masks(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """1 where a column (m, C) is a positive of a row, and 1 where it is a negative, else 0."""
        positives = self.columns.new_empty(rows.stop - rows.start, len(self.columns))
        if self.kinds is not None:
            negatives = torch.eq(self.kinds[rows], 2, out=torch.empty_like(positives))
            return torch.eq(self.kinds[rows], 1, out=positives), negatives
        torch.eq(self.group_numbers[rows, None], self.group_numbers, out=positives)
        negatives = 1 - positives
        positives.diagonal(rows.start).fill_(0)
        if self.reference is not None:
            others = self.reference.batch_images[rows, None] != self.reference.images
            positives[:, self.batch :] *= others
            negatives[:, self.batch :] *= others
        if self.symmetric:
            positives[:, : self.batch] *= 0.5
            negatives[:, : self.batch] *= 0.5
        return positives, negatives

    def sums(self, row_terms: Callable[[Block], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """(sum of the rows' values, with a gradient to the embeddings; the values (B,); further figures (B,) each).

        row_terms(block): values (m,), their slopes (m, C) by the block's scores, and figures (m,). To be called once,
        and last, since it writes over the scores.
        """
        return SumOfRows.apply(self.embeddings, self, row_terms)

    def note(self, block: Block) -> None:
        """Keep sums over a block's pairs, for `mean_scores`."""
        scores, positives, negatives = (table.flatten() for table in block[1:])
        self._sums += [scores @ positives, positives.sum(), scores @ negatives, negatives.sum()]

    def mean_scores(self) -> dict[str, torch.Tensor]:
        """Mean scores of the positive and of the negative pairs that `sums` went through, as losses log them:

        positive_distance and negative_distance, or where scores are similarities these; 0 where there is no such pair.
        """
        positive_sum, positives, negative_sum, negatives = torch.stack(self._sums).view(-1, 4).sum(0)
        score = "distance" if self.distances else "similarity"
        return {
            f"positive_{score}": positive_sum / positives.clamp_min(0.5),
            f"negative_{score}": negative_sum / negatives.clamp_min(0.5),
        }


class SumOfRows(torch.autograd.Function):
    """Sum of all rows' values, its gradient made on the way; see PairRows.sums."""

    @staticmethod
    def forward(ctx, embeddings, pairs, row_terms):
        gradient = torch.zeros_like(embeddings)
        found = []
        for band in pairs.bands():
            held = pairs.scores(band)
            for block in pairs.blocks(band, held):
                pairs.note(block)
                values, slopes, *figures = row_terms(block)
                block.scores.copy_(slopes)
                found.append((values, *figures))
            if ctx.needs_input_grad[0]:
                carry(held, pairs, band, gradient)
        if pairs.lengths is not None:  # through the scaling to length one
            along = (gradient * pairs.directions).sum(1, keepdim=True)
            gradient.addcmul_(along, pairs.directions, value=-1).div_(pairs.lengths)
        values, *figures = found[0]
        if len(found) > 1:
            values, *figures = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values, *figures)
        return values.sum(), values, *figures

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        return upstream * ctx.saved_tensors[0], None, None


def carry(slopes: torch.Tensor, pairs: PairRows, band: slice, gradient: torch.Tensor) -> None:
    """Add to the batch's gradient (B, D) what the slopes (m, C) of a band's values by their scores make of it.

    Both ends of a pair move: row i takes slopes_ij column_j, and where column j is a row of the batch it takes
    slopes_ij row_i. Of a squared distance |x|^2 + |y|^2 - 2 x.y each end x takes 2 slopes_ij (x - y).
    """
    within = slopes[:, : pairs.batch]
    whole = len(slopes) == pairs.batch
    factor = 1
    if pairs.distances:
        factor = -2
        gradient += 2 * within.sum(0)[:, None] * pairs.rows
        gradient[band] += 2 * slopes.sum(1, keepdim=True) * pairs.rows[band]
    if whole and pairs.symmetric:
        within.mul_(2)
    elif whole:
        add_transposed(within)  # both ends of all pairs are one product
    else:
        gradient.addmm_(within.T, pairs.rows[band], alpha=factor)
    gradient[band].addmm_(slopes, pairs.columns, alpha=factor)


def add_transposed(table: torch.Tensor) -> None:
    """Add the transpose of a square table to it, in place, in tiles that the cache holds."""
    for top in range(0, len(table), TILE):
        for left in range(top, len(table), TILE):
            upper = table[top : top + TILE, left : left + TILE]
            lower = table[left : left + TILE, top : top + TILE]
            both = upper + lower.T
            upper.copy_(both)
            lower.copy_(both.T)


def log_sum_exp(numbers: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum_j exp(x_ij) (m,) of numbers (m, C) where keep (m, C) is 1, and the shares (m, C) in the sum: its slopes.

    A row that keeps nothing has a value of -infinity, and shares that mean nothing. Writes over the numbers.
    """
    # Added, not filled in, since that is quicker; softmax is the quickest exponential, whatever the numbers' range.
    out = torch.finfo(numbers.dtype).max / 4
    numbers.add_(keep - 1, alpha=out)
    top = numbers.amax(1)
    shares = numbers.softmax(1)
    return (top - shares.amax(1).log()).masked_fill_(top < -out / 2, -torch.inf), shares


def log1p_sum_exp(numbers: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log(1 + sum_j exp(x_ij)) (m,) of numbers (m, C) where keep (m, C) is 1, and its slopes (m, C).

    Writes over the numbers.
    """
    sums, shares = log_sum_exp(numbers, keep)
    values = torch.logaddexp(sums, torch.zeros_like(sums))
    return values, shares.mul_((sums - values).exp_()[:, None])


def euclidean(squared: torch.Tensor) -> torch.Tensor:
    """Distances of squared ones between unit vectors, never below what rounding leaves of them."""
    return squared.clamp_min(16 * torch.finfo(squared.dtype).eps).sqrt_()


def mean_above_zero(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of the values above zero, of which none is below and `total` is the sum; 0 if there is none."""
    return total / (values > 0).sum().clamp_min(1)
