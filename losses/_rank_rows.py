"""Losses that rank all columns for each row of a batch, some rows at a time: what they share.

Columns are the batch's rows, then a reference's. Each row is the anchor of a ranking of its own. Of the B x N scores a
few rows exist at a time, and of what compares every positive with every column (B x P x N) a piece that stays in the
cache. The gradient to the scores is made beside them, so that forward leaves no more behind than one of (B, D).

How many positives a row has decides the shapes of all this, so labels are read on the host: on an accelerator that is
one wait for the device in each step, which these losses cannot do without.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from losses._mined import Reference
from losses._pair_distances import pair_counts
from losses._unit_vectors import normalise

SCORES = 2**20  # numbers of the B x N that exist at once
PIECE = 2**19  # numbers of the B x P x N that do


class Block(NamedTuple):
    """Some rows of a batch, m, of which the first has most positives, P."""

    rows: torch.Tensor  # (m,) which rows of the batch
    positives: torch.Tensor  # (m, P) their columns; a row with fewer than P repeats its first
    is_positive: torch.Tensor  # (m, P) bool: not such a repetition
    counts: list[int]  # how many positives each row has, on the host, from P down
    with_self: bool  # the row's own column is part of its ranking, and a positive
    same_image: torch.Tensor | None  # (m, M) bool: rows of the reference that are no part of the ranking

    def hide(self, table: torch.Tensor, value: float) -> None:
        """Write `value` into a table (m, N) where a column is no part of the row's ranking."""
        if not self.with_self:
            table.scatter_(1, self.rows[:, None], value)
        if self.same_image is not None:
            table[:, -self.same_image.shape[1] :].masked_fill_(self.same_image, value)

    def pieces(self, columns: int) -> Iterator[tuple[slice, list[int]]]:
        """Yield (some of the block's rows, how many of them have more than 0, 1, 2, ... positives)."""
        start = 0
        while start < len(self.counts):
            most = self.counts[start]
            counts = self.counts[start : start + max(1, PIECE // (most * columns))]
            rounds = []
            remaining = len(counts)
            for number in range(most):
                while counts[remaining - 1] <= number:
                    remaining -= 1
                rounds.append(remaining)
            yield slice(start, start + len(counts)), rounds
            start += len(counts)


class Rankings:
    """Whose columns each row of labels (B,) ranks, and which of them are its positives: those of its label.

    with_self: whether a row ranks itself, as a positive. Rows of a reference that show the row's own image are no part
    of its ranking. `paired` is the number of rows that have a positive beside themselves.
    Raises InputError for a batch without a positive or a negative pair.
    """

    def __init__(self, labels: torch.Tensor, reference: Reference | None = None, *, with_self: bool) -> None:
        self.reference = reference
        self.with_self = with_self
        self.columns = len(labels)
        host_labels = labels.cpu()
        host_reference = None
        if reference is not None:
            facts = (reference.labels.cpu(), reference.images.cpu(), reference.batch_images.cpu())
            host_reference = Reference(reference.embeddings, *facts)
        pair_counts(host_labels, host_reference)
        rows, partners = matches(host_labels, host_labels)
        if not with_self:
            others = rows != partners
            rows, partners = rows[others], partners[others]
        if host_reference is not None:
            self.columns += len(host_reference.labels)
            anchors, remembered = matches(host_labels, host_reference.labels)
            others = host_reference.batch_images[anchors] != host_reference.images[remembered]
            partners = torch.cat([partners, remembered[others] + len(labels)])
            rows, by_row = torch.cat([rows, anchors[others]]).sort(stable=True)
            partners = partners[by_row]

        counts = torch.bincount(rows, minlength=len(labels))
        order = counts.argsort(descending=True, stable=True)
        order = order[: (counts > 0).sum()]
        self.paired = int((counts > with_self).sum())
        self._ordered_counts = counts[order].tolist()
        # What blocks are cut from stands where the scores will be.
        self._order = order.to(labels.device)
        self._counts = counts.to(labels.device)
        self._starts = (counts.cumsum(0) - counts).to(labels.device)
        self._partners = partners.to(labels.device)

    def blocks(self) -> Iterator[Block]:
        """Yield all rows that have a positive."""
        step = max(1, SCORES // self.columns)
        for start in range(0, len(self._order), step):
            rows = self._order[start : start + step]
            counts = self._ordered_counts[start : start + step]
            numbers = torch.arange(counts[0], device=rows.device)
            is_positive = numbers < self._counts[rows, None]
            positives = self._partners[self._starts[rows, None] + torch.where(is_positive, numbers, 0)]
            same_image = None
            if self.reference is not None:
                same_image = self.reference.batch_images[rows, None] == self.reference.images
            yield Block(rows, positives, is_positive, counts, self.with_self, same_image)


def matches(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers (P,), (P,) of all pairs of equal elements of left (L,) and right (R,), which are on the CPU."""
    ordered, order = right.sort(stable=True)
    begins = torch.searchsorted(ordered, left)
    counts = torch.searchsorted(ordered, left, right=True) - begins
    lefts = torch.repeat_interleave(counts)
    within = torch.arange(len(lefts)) - (counts.cumsum(0) - counts)[lefts]
    return lefts, order[begins[lefts] + within]


def products_of(
    queries: torch.Tensor, columns: torch.Tensor, rankings: Rankings
) -> Iterator[tuple[Block, torch.Tensor, torch.Tensor]]:
    """Yield (block, its queries (m, D), their products (m, N) with the columns (N, D)); -inf is outside a ranking."""
    for block in rankings.blocks():
        own = queries[block.rows]
        products = own @ columns.T
        block.hide(products, -math.inf)
        yield block, own, products


# Of a block and its products (m, N), which it may write over: values (m,), and their slopes by the products (m, N).
BlockLoss = Callable[[Block, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class SumOverRows(torch.autograd.Function):
    """(The sum of block_loss over all rows, the share of the paired rows that are active).

    A row's products are those of its query (B, D) with the keys (B, D), None for the queries, and then with further
    keys (M, D), which get no gradient: similarities, or whatever else falls as a column is farther.
    A row is active where a negative has at least the product of one of its positives.
    """

    @staticmethod
    def forward(
        ctx,
        queries: torch.Tensor,
        keys: torch.Tensor | None,
        further_keys: torch.Tensor | None,
        rankings: Rankings,
        block_loss: BlockLoss,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        columns = queries if keys is None else keys
        if further_keys is not None:
            columns = torch.cat([columns, further_keys])
        to_queries = torch.zeros_like(queries)
        to_keys = to_queries if keys is None else torch.zeros_like(keys)
        total = queries.new_zeros(())
        active = queries.new_zeros(())
        for block, own, products in products_of(queries, columns, rankings):
            active += is_active(block, products).sum()
            values, slopes = block_loss(block, products)
            total += values.sum()
            to_queries.index_add_(0, block.rows, slopes @ columns)
            to_keys.addmm_(slopes[:, : len(to_keys)].T, own)
        ctx.has_keys = keys is not None
        ctx.save_for_backward(to_queries, to_keys)
        active /= rankings.paired
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        to_queries, to_keys = ctx.saved_tensors
        by_keys = upstream * to_keys if ctx.has_keys else None
        return upstream * to_queries, by_keys, None, None, None


def is_active(block: Block, products: torch.Tensor) -> torch.Tensor:
    """Whether a negative has at least the product of a row's worst positive, (m,) bool."""
    worst = products.gather(1, block.positives).amin(1)
    return products.scatter(1, block.positives, -math.inf).amax(1) >= worst


def unit_columns(reference: Reference | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A reference's embeddings (M, D) scaled to length one, None where there is no reference."""
    if reference is None:
        return None
    return normalise(reference.embeddings.to(dtype))


# Of differences (n, N), which it may write over: their steps' sums over a row (n,), and the steps' slopes (n, N).
Step = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# Of the positives' scores (n, P), their ranks (n, P), and where there is a positive (n, P): values (n,), by autograd.
ValueOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def sigmoid_step(differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logistic function, in place of a step from 0 to 1."""
    steps = differences.sigmoid_()
    return steps.sum(1), steps.addcmul_(steps, steps, value=-1)


def of_ranks(
    block: Block, scores: torch.Tensor, own: torch.Tensor, value_of: ValueOf, step: Step = sigmoid_step
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (m,) and their slopes (m, N) by the scores (m, N), for a loss that is one of its positives' ranks.

    The rank of a positive, of which `own` (m, P) are the scores, is the sum of step(score - own score) over all
    columns, that is with step(0) for itself. Where the value takes both, it moves with either.
    """
    values = scores.new_empty(len(scores))
    slopes = torch.zeros_like(scores)
    for rows, rounds in block.pieces(scores.shape[1]):
        piece = scores[rows]
        piece_own = own[rows, : len(rounds)]
        is_positive = block.is_positive[rows, : len(rounds)]

        # One positive of each row at a time: rows with fewer stand behind those with more, so nothing is padded.
        ranks = torch.ones_like(piece_own)
        step_slopes = []
        for number, count in enumerate(rounds):
            sums, by_difference = step(piece[:count] - piece_own[:count, number, None])
            ranks[:count, number] = sums
            step_slopes.append(by_difference)

        with torch.enable_grad():
            leaves = [piece_own.clone().requires_grad_(), ranks.requires_grad_()]
            piece_values = value_of(*leaves, is_positive)
            by_own, by_rank = torch.autograd.grad(piece_values.sum(), leaves, materialize_grads=True)
        values[rows] = piece_values.detach()

        # A rank rises with every column's score, and falls with the positive's.
        piece_slopes = slopes[rows]
        for number, count in enumerate(rounds):
            pull = by_rank[:count, number]
            piece_slopes[:count].addcmul_(step_slopes[number], pull[:, None])
            by_own[:count, number] -= pull * step_slopes[number].sum(1)
        piece_slopes.scatter_add_(1, block.positives[rows, : len(rounds)], torch.where(is_positive, by_own, 0))
    return values, slopes
