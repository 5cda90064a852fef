"""Rows of a batch against columns, of which a mask says which are positives and which negatives."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from core.slices import numbers_at_once, slices_of, step_within
from losses._mined import Pairs, Reference, column_labels
from losses._pair_distances import check_pairs
from losses._rows import Rows

BLOCK = 2**18  # numbers that are worked on at once, so that what is made of them stays in the cache


class Block(NamedTuple):
    """Some rows of a batch and all columns. A row is neither its own positive nor its own negative."""

    rows: slice
    scores: torch.Tensor  # (m, C) similarities or squared distances
    kinds: torch.Tensor  # (2, m, C), which are the following two
    positives: torch.Tensor  # (m, C), 1 where a column is a positive of the row, else 0
    negatives: torch.Tensor  # (m, C)
    counts: torch.Tensor  # (2, m) how many positives and negatives a row has


class PairRows(Rows):
    """Rows of a batch against columns, and which pairs of them count.

    `mined` names the pairs that count, each once; else all do, those within the batch from both of their ends.
    Reference rows of the image that a row shows are no pair with it.
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
            check_pairs(labels, reference)
        super().__init__(embeddings, reference, unit=unit, distances=distances)
        self.symmetric = once and mined is None
        labels = column_labels(labels, reference)
        # A number below C for each label: as floats they are compared several times as fast, and labels may be 2^60.
        self.groups = torch.searchsorted(labels.sort().values, labels).to(self.columns.dtype)
        self.mined_kinds = None
        if mined is not None:
            self.mined_kinds = labels.new_zeros(2, self.batch, len(labels), dtype=torch.bool)
            self.mined_kinds[0, mined.positive_anchors, mined.positives] = True
            self.mined_kinds[1, mined.negative_anchors, mined.negatives] = True
        self._kinds = None
        # Of the pairs that `sums` went through, positive and negative (2,): how many there are, and sums of scores.
        self.counts = self.score_sums = 0

    def blocks(self, band: slice, scores: torch.Tensor) -> Iterator[Block]:
        """Blocks of a band's rows and their scores (m, C); what is written over a block's is written over these."""
        step = step_within(len(self.columns), numbers_at_once(scores.device.type, BLOCK))
        for rows in slices_of(band.stop, step, band.start):
            here = scores[rows.start - band.start : rows.stop - band.start]
            yield Block(rows, here, *self.kinds(rows))

    def kinds(self, rows: slice) -> tuple[torch.Tensor, ...]:
        """What a Block of these rows says of its pairs; of a whole batch it is made once."""
        if self._kinds is not None:
            return self._kinds
        if self.mined_kinds is not None:
            kinds = self.mined_kinds[:, rows].to(self.columns.dtype)
        else:
            kinds = self._kinds_by_label(rows)
        found = (kinds, *kinds.unbind(), kinds.sum(2))
        if rows.stop - rows.start == self.batch:
            self._kinds = found
        return found

    def _kinds_by_label(self, rows: slice) -> torch.Tensor:
        kinds = self.columns.new_empty(2, rows.stop - rows.start, len(self.columns))
        positives, negatives = kinds.unbind()
        torch.eq(self.groups[rows, None], self.groups, out=positives)
        torch.sub(1, positives, out=negatives)
        positives.diagonal(rows.start).fill_(0)
        if self.reference is not None:
            kinds[:, :, self.batch :] *= self.reference.batch_images[rows, None] != self.reference.images
        if self.symmetric:
            kinds[:, :, : self.batch] *= 0.5
        return kinds

    def sums(self, row_terms: Callable[[Block], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """What Rows.sums says; notes what `counts` and `mean_scores` are about."""

        def noted(block: Block) -> tuple[torch.Tensor, ...]:
            self.counts = self.counts + block.counts.sum(1)
            self.score_sums = self.score_sums + block.kinds.flatten(1) @ block.scores.flatten()
            return row_terms(block)

        return super().sums(noted)

    def mean_scores(self) -> dict[str, torch.Tensor]:
        """Mean scores of the positive and of the negative pairs that `sums` went through, as losses log them:

        positive_distance and negative_distance, or where scores are similarities these; 0 where there is no such pair.
        """
        of_positives, of_negatives = (self.score_sums / self.counts.clamp_min(0.5)).unbind()
        score = "distance" if self.distances else "similarity"
        return {f"positive_{score}": of_positives, f"negative_{score}": of_negatives}


def log_sum_exp(numbers: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum_j exp(x_ij) (m,) of numbers (m, C) where keep (m, C) is 1, and the shares (m, C) in the sum: its slopes.

    A row that keeps nothing has a value of -infinity, and shares that mean nothing. Writes over the numbers.
    """
    values, shares, _ = log_sum_exp_and_top(numbers, keep)
    return values, shares


def log_sum_exp_and_top(numbers: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `log_sum_exp` says, and the greatest number that each row keeps (m,)."""
    # Added, not filled in, since that is quicker; softmax is the quickest exponential, whatever the numbers' range.
    out = torch.finfo(numbers.dtype).max / 4
    numbers.add_(keep - 1, alpha=out)
    top = F.threshold(numbers.amax(1), -out / 2, -torch.inf)
    shares = numbers.softmax(1)
    return top - shares.amax(1).log(), shares, top


def log1p_sum_exp(numbers: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log(1 + sum_j exp(x_ij)) (m,) of numbers (m, C) where keep (m, C) is 1, and its slopes (m, C).

    Writes over the numbers.
    """
    sums, shares = log_sum_exp(numbers, keep)
    values = torch.logaddexp(sums, torch.zeros_like(sums))
    return values, shares.mul_(sums.sigmoid()[:, None])


def euclidean(squared: torch.Tensor) -> torch.Tensor:
    """Distances of squared ones between unit vectors, never below what rounding leaves of them."""
    return squared.clamp_min(16 * torch.finfo(squared.dtype).eps).sqrt_()


def mean_above_zero(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of the values above zero, of which none is below and `total` is the sum; 0 if there is none."""
    return total / (values > 0).sum().clamp_min(1)
