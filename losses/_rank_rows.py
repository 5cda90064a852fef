"""Rows of a batch that each rank all columns, and whose positives are known by number: no mask says which they are.

Rows with equally many positives stand together, so that nothing is padded: what compares every positive with every
column is a table (m, P, C) of m such rows, in pieces that stay in the cache.

How many positives a row has decides the shapes of all this, so labels are read on the host. Given there, beside
embeddings on an accelerator, nothing waits for the device; a loss says so by `reads_labels`, and training does it.
Labels of a reference stand on the device, for which there is one wait in a step.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from core.slices import numbers_at_once, slices_of, step_within
from losses._mined import Reference
from losses._pair_distances import check_pairs
from losses._rows import Rows, ScoreTable

PIECE = 2**19  # numbers that are worked on at once


class Block(NamedTuple):
    """Some rows of a batch, m, that have P positives each, and all columns."""

    rows: slice
    scores: torch.Tensor  # (m, C) similarities or squared distances
    positives: torch.Tensor  # (m, P) their columns
    with_self: bool  # the row's own column is part of its ranking, and a positive
    same_image: torch.Tensor | None  # (m, M) bool: rows of the reference that are no part of the ranking

    @property
    def count(self) -> int:
        """Positives of each row."""
        return self.positives.shape[1]

    def own(self, table: torch.Tensor) -> torch.Tensor:
        """The positives' numbers (m, P) of a table (m, C)."""
        return table.gather(1, self.positives)

    def negatives(self, table: torch.Tensor) -> torch.Tensor:
        """A copy of a table (m, C) of distances with infinity where a column is a positive."""
        return table.scatter(1, self.positives, math.inf)

    def negative_counts(self) -> torch.Tensor:
        """How many columns of its ranking are not a row's positives (m,)."""
        columns = self.scores.shape[1] - self.count - (not self.with_self)
        counts = self.scores.new_full((len(self.scores),), columns)
        if self.same_image is not None:
            counts -= self.same_image.sum(1)
        return counts

    def place_itself(self, table: torch.Tensor, value: float) -> None:
        """Write `value` into a table (m, C) where a column is the row itself."""
        table.diagonal(self.rows.start).fill_(value)

    def hide(self, table: torch.Tensor, value: float) -> None:
        """Write `value` into a table (m, C) where a column is no part of the row's ranking."""
        if not self.with_self:
            self.place_itself(table, value)
        if self.same_image is not None:
            table[:, -self.same_image.shape[1] :].masked_fill_(self.same_image, value)

    def is_other(self) -> torch.Tensor:
        """Which positives are not the row itself, (m, P) bool."""
        numbers = torch.arange(self.rows.start, self.rows.stop, device=self.positives.device)
        return self.positives != numbers[:, None]

    def is_active(self, scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Which rows (m,) have a negative with at least the score of their worst positive: scores (m, C), own (m, P).

        A row that has nobody but itself ranks nothing, and is not active.
        """
        if self.count == self.with_self:
            return torch.zeros_like(self.positives[:, 0], dtype=torch.bool)
        return scores.scatter(1, self.positives, -math.inf).amax(1) >= own.amin(1)


class RankedRows(Rows):
    """Rows of a batch, of which each ranks all columns: those of its label are its positives.

    Those with most positives come first. with_self: whether a row ranks itself, as a positive. Rows of a reference that
    show the row's own image are no part of its ranking: their scores are -infinity, their squared distances infinity.
    unit, distances: see Rows. labels: best on the host (see above). at_once: how many positives of a row the loss
    compares with all columns at once, None for all. lone: rows without a positive are in blocks, too, of P = 0.
    `paired` is the number of rows that have a positive beside themselves.
    Raises InputError for a batch without a positive or a negative pair.
    """

    def __init__(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None = None,
        *,
        with_self: bool,
        unit: bool = True,
        distances: bool = False,
        at_once: int | None = None,
        lone: bool = False,
    ) -> None:
        host_labels = labels.cpu()
        host_reference = None
        if reference is not None:
            facts = (reference.labels.cpu(), reference.images.cpu(), reference.batch_images.cpu())
            host_reference = Reference(reference.embeddings, *facts)
        check_pairs(host_labels, host_reference)
        rows, positives = positive_pairs(host_labels, host_reference, with_self)
        counts = np.bincount(rows, minlength=len(labels))
        order = np.argsort(-counts, kind="stable")
        ordered_counts = counts[order]
        if ordered_counts[0] != ordered_counts[-1]:
            positives = reordered(positives, counts, order)
            order = torch.from_numpy(order).to(embeddings.device, non_blocking=True)
            embeddings = embeddings[order]
            if reference is not None:
                reference = reference._replace(batch_images=reference.batch_images[order])
        super().__init__(embeddings, reference, unit=unit, distances=distances)
        self.with_self = with_self
        self.at_once = at_once
        self.paired = int(np.count_nonzero(counts > with_self))
        # On the host, for losses that pick among these pairs.
        self._positives, self._counts = positives, ordered_counts
        # Rows that have equally many positives, and these: [(rows, columns (m, P))].
        positives = torch.from_numpy(positives).to(embeddings.device, non_blocking=True)
        self.runs = []
        start = behind = 0
        for count, run in itertools.groupby(ordered_counts.tolist()):
            if count == 0 and not lone:
                break
            length = len(list(run))
            columns = positives[behind : behind + count * length].view(length, count)
            self.runs.append((slice(start, start + length), columns))
            start += length
            behind += count * length

    def positive_pairs_once(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows (P,), rows (P,)) of all positive pairs within the batch, the lower one first, in order."""
        rows = np.repeat(np.arange(self.batch), self._counts)
        once = (rows < self._positives) & (self._positives < self.batch)
        return rows[once], self._positives[once]

    def of_one_label(self, block: Block) -> np.ndarray:
        """Each row of a block, and its positives (m, P + 1); not with a reference."""
        rows = np.arange(block.rows.start, block.rows.stop)[:, None]
        begin = self._counts[: block.rows.start].sum()
        positives = self._positives[begin : begin + len(rows) * block.count]
        return np.concatenate([rows, positives.reshape(len(rows), block.count)], 1)

    def scored_by(self, *, unit: bool, distances: bool) -> "RankedRows":
        """The same rows, ranked by other scores, which carry no gradient."""
        others = copy.copy(self)
        ScoreTable.__init__(others, self.embeddings.detach(), self.reference, unit=unit, distances=distances)
        return others

    def blocks(self, band: slice, scores: torch.Tensor) -> Iterator[Block]:
        """Blocks of a band's rows and their scores (m, C); the scores of rows that are in none become 0."""
        for run, columns in self.runs:
            at_once = min(columns.shape[1], self.at_once or columns.shape[1])
            step = step_within(max(at_once, 1) * len(self.columns), numbers_at_once(scores.device.type, PIECE))
            for rows in slices_of(min(run.stop, band.stop), step, max(run.start, band.start)):
                same_image = None
                if self.reference is not None:
                    same_image = self.reference.batch_images[rows, None] == self.reference.images
                here = scores[rows.start - band.start : rows.stop - band.start]
                positives = columns[rows.start - run.start : rows.stop - run.start]
                block = Block(rows, here, positives, self.with_self, same_image)
                block.hide(here, math.inf if self.distances else -math.inf)
                yield block
        if run.stop < band.stop:
            scores[max(run.stop - band.start, 0) :] = 0


def positive_pairs(labels: torch.Tensor, reference: Reference | None, with_self: bool) -> tuple[np.ndarray, np.ndarray]:
    """(rows (P,), in order, columns (P,)) of all positive pairs of labels (B,) and a reference, all on the CPU."""
    labels = labels.numpy()
    rows, columns = matches(labels, labels)
    if not with_self:
        others = rows != columns
        rows, columns = rows[others], columns[others]
    if reference is None:
        return rows, columns
    anchors, remembered = matches(labels, reference.labels.numpy())
    others = reference.batch_images.numpy()[anchors] != reference.images.numpy()[remembered]
    rows = np.concatenate([rows, anchors[others]])
    order = rows.argsort(kind="stable")
    return rows[order], np.concatenate([columns, remembered[others] + len(labels)])[order]


def reordered(columns: np.ndarray, counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Columns (P,), of which each row in turn has counts (B,) many, for rows that stand in another order (B,)."""
    begins = counts.cumsum() - counts
    columns = columns[np.repeat(begins[order], counts[order]) + within_runs(counts[order])]
    # The batch's own columns move with its rows.
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return np.where(columns < len(order), places[columns.clip(max=len(order) - 1)], columns)


def matches(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (P,), (P,) of all pairs of equal elements of left (L,) and right (R,)."""
    order = right.argsort(kind="stable")
    ordered = right[order]
    begins = np.searchsorted(ordered, left)
    counts = np.searchsorted(ordered, left, side="right") - begins
    lefts = np.repeat(np.arange(len(left)), counts)
    return lefts, order[np.repeat(begins, counts) + within_runs(counts)]


def within_runs(lengths: np.ndarray) -> np.ndarray:
    """0, 1, … of each of several runs, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


# Of differences (m, P, C), which it may write over: their steps' sums (m, P), and the steps' slopes (m, P, C).
Step = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# Of the positives' scores and ranks (m, P): values (m,), their slopes by the scores (None: none) and by the ranks.
ValueOf = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]


def sigmoid_step(differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logistic function, in place of a step from 0 to 1."""
    steps = differences.sigmoid_()
    return steps.sum(2), steps.addcmul_(steps, steps, value=-1)


def of_ranks(
    block: Block, scores: torch.Tensor, own: torch.Tensor, value_of: ValueOf, step: Step = sigmoid_step
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (m,) and their slopes (m, C) by the scores (m, C), for a loss that is one of its positives' ranks.

    The rank of a positive, of which `own` (m, P) are the scores, is the sum of step(score - own score) over all
    columns, that is with step(0) for itself. Where the value takes both, it moves with either.
    """
    ranks, steepness = step(scores[:, None] - own[:, :, None])
    values, by_own, by_rank = value_of(own, ranks)
    # A rank rises with every column's score, and falls with the positive's.
    slopes = torch.bmm(by_rank[:, None], steepness)[:, 0]
    falls = steepness.sum(2).mul_(by_rank)
    by_own = falls.neg_() if by_own is None else by_own - falls
    return values, slopes.scatter_add_(1, block.positives, by_own)
