"""Scores over many classes without all of them in memory: what the losses over class weights are computed from.

Scores are made a few thousand classes at a time, which stay in the cache while they are scaled, summed and counted.
What crosses from forward to backward is one number per row, and the scores themselves only while they are small.

Under autocast to bfloat16 the three products (scores, gradient by rows, gradient by weights) take rows, weights and
slopes rounded to it, a chunk at a time, and are rounded to it themselves when their sums are made: each time by 2^-8 of
a number at most. They are most of the work, and bfloat16 is several times as fast on matrix units. All else stays in
float32: the weights, which an optimiser moves by less than such a rounding; their lengths, the own classes' scores,
margins and exponentials; and sums over chunks. Partial FC (An et al., 2022, arXiv 2203.15565) multiplies under
autocast, too, and takes the softmax of the products in float32.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from core.errors import InputError
from core.slices import numbers_at_once, step_within
from losses._precision import product_type
from losses._unit_vectors import lengths

KEPT_BYTES = 100 * 2**20  # of scores that wait for the backward pass; where it would be more they are made twice
CHUNK = 2048  # classes at a time
# On an accelerator, where each operation has its price: so many scores at a time, and so many bytes that wait.
DEVICE_SCORES, KEPT_DEVICE_BYTES = 2**26, 2**30


class ClassShard(NamedTuple):
    """Which classes a weight's rows stand for, where each of several ranks has a shard of all class weights.

    start: the first class of the shard; classes: how many all ranks have together; all_reduce_sum, all_reduce_max:
    functions from a tensor to its sum or maximum over the ranks, without gradient.
    """

    start: int
    classes: int
    all_reduce_sum: Callable[[torch.Tensor], torch.Tensor]
    all_reduce_max: Callable[[torch.Tensor], torch.Tensor]


class Centres(Protocol):
    """How the scores for the K centres of each class become the score for the class."""

    def combine(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, K, B) for centres -> (n, B) for classes."""

    def spread(self, scores: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        """Slopes (n, B) of what is minimised by the scores for classes -> (n, K, B) by those for centres, `scores`."""


class Scoring(NamedTuple):
    """How scores are made of rows and class weights, and how many at a time.

    scale: factor on cosines, None for plain products. centres: for weights (C, K, D), None for (C, D). step: classes
    at a time. keeps_scores: whether they are kept for the backward pass. shard: None where the classes are all.
    product_type: what is multiplied, the type of the rows or bfloat16.
    """

    scale: float | None
    centres: Centres | None
    step: int
    keeps_scores: bool
    shard: ClassShard | None
    product_type: torch.dtype


class TakingPart(NamedTuple):
    """The classes of a step: of all ranks, and what this rank holds of them.

    count: how many on all ranks. numbers: which they are, None for all. tables: those rows of the class tables that are
    of them and on this rank. positions: of each row's own class in these tables (B,), outside of them if it is on
    another rank. held: which of `numbers`, or of all classes, the tables' rows are.
    """

    count: int
    numbers: torch.Tensor | None
    tables: list[torch.Tensor | None]
    positions: torch.Tensor
    held: torch.Tensor | slice


def classes_taking_part(
    tables: list[torch.Tensor | None], labels: torch.Tensor, rate: float, shard: ClassShard | None
) -> TakingPart:
    """The classes of labels (B,), with others at random where `rate` is below 1; tables: a row for each class held."""
    first = 0
    held = len(tables[0])
    count = held
    if shard is not None:
        first = shard.start
        count = shard.classes
    if rate >= 1:
        return TakingPart(count, None, tables, labels - first if first else labels, slice(first, first + held))

    numbers = sample_classes(labels, count, rate)
    count = len(numbers)
    inside = slice(None)
    if shard is not None:
        inside = (numbers >= first) & (numbers < first + held)
    own = numbers[inside]
    chosen = [None if table is None else table[own - first] for table in tables]
    return TakingPart(count, numbers, chosen, _positions(own, labels), inside)


def sample_classes(labels: torch.Tensor, classes: int, rate: float) -> torch.Tensor:
    """Sorted numbers (n,) of the classes that take part: those of `labels`, and others at random until n is `rate` of
    all; n is the number of labels at least, so that all find room without looking at them."""
    keys = torch.rand(classes).to(labels.device).index_fill(0, labels, 2)
    return keys.topk(min(classes, max(round(rate * classes), len(labels)))).indices.sort().values


def _positions(sampled: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Where each label stands among the sorted classes `sampled`, -1 for one that is not there."""
    if not len(sampled):
        return torch.full_like(labels, -1)
    positions = torch.searchsorted(sampled, labels).clamp_max(len(sampled) - 1)
    return torch.where(sampled[positions] == labels, positions, -1)


def check_chunk(chunk_classes: str | int) -> None:
    """Raise InputError unless `chunk_classes` is auto or a whole number from 1."""
    if chunk_classes != "auto" and not (str(chunk_classes).isdecimal() and int(chunk_classes)):
        raise InputError(f"chunk_classes={chunk_classes} is neither auto nor a number of classes, 1 or more")


def classes_at_once(device_type: str, numbers: int) -> int:
    """How many classes are worked on at a time that have so many numbers each."""
    if device_type == "cpu":
        return CHUNK
    return max(CHUNK, step_within(max(numbers, 1), DEVICE_SCORES))


def plan_scores(
    rows: torch.Tensor,
    weight: torch.Tensor,
    scale: float | None,
    centres: Centres | None,
    chunk_classes: str | int,
    shard: ClassShard | None,
) -> Scoring:
    """The Scoring of rows (B, D) and weights (C, D), or (C, K, D) with `centres`, for a flag --chunk_classes."""
    centres_of_a_class = weight[0].numel() // weight.shape[-1] if len(weight) else 1
    step = max(1, classes_at_once(rows.device.type, len(rows)) // centres_of_a_class)
    kept_bytes = KEPT_BYTES if rows.device.type == "cpu" else KEPT_DEVICE_BYTES
    if chunk_classes == "auto":
        bytes_of_all = rows.element_size() * len(rows) * (weight.numel() // weight.shape[-1])
        keeps_scores = bytes_of_all <= kept_bytes
    else:
        keeps_scores = len(weight) <= int(chunk_classes)
        step = min(step, int(chunk_classes))
    return Scoring(scale, centres, step, keeps_scores, shard, product_type(rows))


class ChunkedScores:
    """Scores (classes, rows) of a chunk of classes at a time, so that a chunk is one piece of memory; their gradients.

    rows (B, D), of length 1 where the scores are cosines; weight (C, D) or (C, K, D), bias (C,) or None. positions
    (B,): each row's own class, outside 0..C-1 where another rank has its scores. factors (C K,): what products become
    scores by, those of an earlier pass over the same weights, None to find them.
    """

    def __init__(
        self,
        scoring: Scoring,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        positions: torch.Tensor,
        factors: torch.Tensor | None = None,
    ) -> None:
        self.scoring = scoring
        self.rows = rows
        self.rows_to_multiply = rows.to(scoring.product_type)
        self.bias = bias
        self.positions = positions
        self.by_class = weight
        self.weight = weight.flatten(0, -2)  # a row for each centre
        self.centres_of_a_class = 1 if weight.ndim == 2 else weight.shape[1]
        self.factors = factors
        if factors is None and scoring.scale is not None:
            self.factors = scoring.scale / lengths(self.weight)
        step = scoring.step
        self.chunks = [slice(start, min(start + step, len(weight))) for start in range(0, len(weight), step)]

    def table(self) -> torch.Tensor:
        """Room for the scores of all centres if they are kept, else for those of a chunk."""
        if self.scoring.keeps_scores:
            return self.rows.new_empty(len(self.weight), len(self.rows))
        return self.rows.new_empty(self._most_classes() * self.centres_of_a_class, len(self.rows))

    def scratch(self) -> torch.Tensor:
        """Room for one number for each class of a chunk and each row."""
        return self.rows.new_empty(self._most_classes(), len(self.rows))

    def _most_classes(self) -> int:
        return self.chunks[0].stop if self.chunks else 0

    def own(self) -> torch.Tensor:
        """Each row's score for its own class (B,), the cosine where there is a scale; whichever rank has the class."""
        shard = self.scoring.shard
        if shard is None:
            return self._own_of(self.rows, self.positions)
        # Each rank fills in the rows whose class it holds; the others are 0 and do not change the sum over ranks.
        inside = torch.nonzero((self.positions >= 0) & (self.positions < len(self.by_class)))[:, 0]
        own = self.rows.new_zeros(len(self.rows))
        own[inside] = self._own_of(self.rows[inside], self.positions[inside])
        return shard.all_reduce_sum(own)

    def _own_of(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        weight = self.by_class[positions]
        scale = self.scoring.scale
        if self.scoring.centres is not None:
            cosines = torch.einsum("bd,bkd->bk", rows, weight) / lengths(weight.flatten(0, 1)).view(weight.shape[:2])
            return self.scoring.centres.combine(scale * cosines[:, :, None])[:, 0] / scale
        own = (rows * weight).sum(1)
        if scale is not None:
            return own / lengths(weight)
        if self.bias is not None:
            return own + self.bias[positions]
        return own

    def of_centres(self, chunk: slice, table: torch.Tensor, made: bool = False) -> torch.Tensor:
        """Scores (n K, B) of the centres of a chunk's classes, written into `table` unless they are `made` already.

        A table with a row for each centre gets them in their rows, a smaller one in its first.
        """
        centres = self._centres(chunk)
        if len(table) == len(self.weight):
            scores = table[centres]
        else:
            scores = table[: centres.stop - centres.start]
        if made:
            return scores
        if self.scoring.product_type == scores.dtype:
            torch.mm(self.weight[centres], self.rows.T, out=scores)
        else:
            scores.copy_(self.weight[centres].to(self.scoring.product_type) @ self.rows_to_multiply.T)
        if self.factors is not None:
            scores.mul_(self.factors[centres, None])
        if self.bias is not None:
            scores.add_(self.bias[centres, None])
        return scores

    def of_classes(self, of_centres: torch.Tensor) -> torch.Tensor:
        """Scores (n, B) of the classes that these scores (n K, B) of centres are of: the same tensor for one centre."""
        if self.scoring.centres is None:
            return of_centres
        return self.scoring.centres.combine(self._by_class(of_centres))

    def own_rows(self, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (1, B) of a chunk's scores where each own class's stands, and whether it is in this chunk at all."""
        positions = self.positions[None] - chunk.start
        last = chunk.stop - chunk.start - 1
        return positions.clamp(0, last), (positions >= 0) & (positions <= last)

    def begin_gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Tables that `add_gradients` fills: by rows, by weight, by bias."""
        self.to_rows = torch.zeros_like(self.rows)
        self.to_weight = torch.empty_like(self.weight)
        self.to_bias = None if self.bias is None else torch.empty_like(self.bias)

    def add_gradients(self, chunk: slice, of_centres: torch.Tensor, slopes: torch.Tensor) -> None:
        """Carry slopes (n, B) by the scores of a chunk's classes on; they and `of_centres` are written over."""
        if self.scoring.centres is not None:
            slopes = self.scoring.centres.spread(self._by_class(of_centres), slopes).flatten(0, 1)
        centres = self._centres(chunk)
        if self.bias is not None:
            torch.sum(slopes, 1, out=self.to_bias[centres])
        if self.factors is not None:
            slopes.mul_(self.factors[centres, None])
        weight = self.weight[centres]
        to_weight = self.to_weight[centres]
        if self.scoring.product_type == slopes.dtype:
            self.to_rows.addmm_(slopes.T, weight)
            torch.mm(slopes, self.rows, out=to_weight)
        else:
            rounded = slopes.to(self.scoring.product_type)
            self.to_rows.add_(rounded.T @ weight.to(rounded.dtype))
            to_weight.copy_(rounded @ self.rows_to_multiply)
        if self.factors is not None:
            self._leave_lengths(to_weight, weight, self.factors[centres] / self.scoring.scale)

    @staticmethod
    def _leave_lengths(to_weight: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor) -> None:
        """Take from slopes (n, D) what pulls along the weights, whose lengths change no cosine; inverse (n,): 1 / them.

        A few weights at a time, which are in the cache when they are read again.
        """
        few = step_within(weight.shape[1], numbers_at_once(weight.device.type))
        room = torch.empty_like(weight[:few])
        for slopes, rows, factors in zip(to_weight.split(few), weight.split(few), inverse.split(few)):
            along = torch.mul(slopes, rows, out=room[: len(rows)]).sum(1).mul_(factors).mul_(factors)
            slopes.addcmul_(rows, along[:, None], value=-1)

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """By rows (of all ranks' classes), by weight, by bias, once all chunks are added."""
        to_rows = self.to_rows
        if self.scoring.shard is not None:
            to_rows = self.scoring.shard.all_reduce_sum(to_rows)
        return to_rows, self.to_weight.view_as(self.by_class), self.to_bias

    def _centres(self, chunk: slice) -> slice:
        return slice(chunk.start * self.centres_of_a_class, chunk.stop * self.centres_of_a_class)

    def _by_class(self, of_centres: torch.Tensor) -> torch.Tensor:
        return of_centres.view(-1, self.centres_of_a_class, len(self.rows))


def shares(better: torch.Tensor) -> dict[str, torch.Tensor]:
    """{"acc1", "acc5"}: shares of rows whose own class is the first, among five; better (B,): classes ahead of it."""
    return {"acc1": (better < 1).float().mean(), "acc5": (better < 5).float().mean()}
