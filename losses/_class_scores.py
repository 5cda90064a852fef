"""Cross-entropy over many classes without their scores in memory: what softmax and arcmargin share.

Scores are made a few thousand classes at a time, which stay in the cache while they are scaled, summed and counted.
What crosses from forward to backward is one number per row, and the scores themselves only while they are small.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from core.errors import InputError
from losses._checks import check_option
from losses._unit_vectors import lengths

KEPT_BYTES = 100 * 2**20  # of scores that wait for the backward pass; where it would be more they are made twice
CHUNK = 2048  # classes at a time


class ClassShard(NamedTuple):
    """Which classes a weight's rows stand for, where each of several ranks has a shard of all class weights.

    start: the first class of the shard; classes: how many all ranks have together; all_reduce_sum, all_reduce_max:
    functions from a tensor to its sum or maximum over the ranks, without gradient.
    """

    start: int
    classes: int
    all_reduce_sum: Callable[[torch.Tensor], torch.Tensor]
    all_reduce_max: Callable[[torch.Tensor], torch.Tensor]


class ClassLoss(nn.Module):
    """A loss over `weight` (C, D), of which every parameter has a row for each class.

    `shard` is None where the rows are those of all classes, else it says which classes they are of. The weight is drawn
    from U(-bound, bound). chunk_classes, class_sample_rate: see class_cross_entropy. Raises InputError for others.
    """

    shard: ClassShard | None = None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        bound: float,
        chunk_classes: str | int,
        class_sample_rate: float,
    ) -> None:
        super().__init__()
        check_chunk(chunk_classes)
        check_option("class_sample_rate", class_sample_rate, 0, 1)
        self.num_classes = num_classes
        self.bound = bound
        self.chunk_classes = chunk_classes
        self.class_sample_rate = class_sample_rate
        self.logs: dict[str, torch.Tensor] = {}
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size).uniform_(-bound, bound))

    def cross_entropy(self, rows: torch.Tensor, labels: torch.Tensor, **scoring) -> torch.Tensor:
        """class_cross_entropy of rows (B, D) and labels (B,) with this loss's weight and options; fills `logs`."""
        loss, self.logs = class_cross_entropy(
            rows,
            self.weight,
            labels,
            **scoring,
            chunk_classes=self.chunk_classes,
            class_sample_rate=self.class_sample_rate,
            shard=self.shard,
        )
        return loss

    @classmethod
    def sharded(cls, rows: slice, all_reduce_sum: Callable, all_reduce_max: Callable, **settings) -> Self:
        """The loss of `settings` with `rows` of its parameters alone, the other ranks having the rest.

        all_reduce_sum, all_reduce_max: see ClassShard. These are the rows that the whole loss would have, and random
        numbers go on as after it, but it never is in memory. Parameters other than the weight begin at 0.
        """
        with torch.device("meta"):
            loss = cls(**settings)
        for name, parameter in list(loss.named_parameters()):
            values = torch.zeros(rows.stop - rows.start, *parameter.shape[1:])
            setattr(loss, name, nn.Parameter(values))
        _draw_rows(loss.weight.data, loss.bound, loss.num_classes, rows.start)
        loss.shard = ClassShard(rows.start, loss.num_classes, all_reduce_sum, all_reduce_max)
        return loss


def _draw_rows(table: torch.Tensor, bound: float, classes: int, start: int) -> None:
    """Fill `table` (n, D) with the rows from `start` on of one of `classes` rows, which is drawn chunk by chunk."""
    scratch = torch.empty(min(CHUNK, classes), table.shape[1])
    for first in range(0, classes, CHUNK):
        # Every chunk is drawn, also one that is not wanted: that keeps the generator where the whole table leaves it.
        drawn = scratch[: classes - first].uniform_(-bound, bound)
        begin = max(first, start)
        end = min(first + len(drawn), start + len(table))
        if begin < end:
            table[begin - start : end - start] = drawn[begin - first : end - first]


def class_cross_entropy(
    rows: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    add_margin: Callable[[torch.Tensor], torch.Tensor] | None = None,
    chunk_classes: str | int = "auto",
    class_sample_rate: float = 1.0,
    shard: ClassShard | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean cross-entropy, a scalar, and {"acc1", "acc5"}: shares of rows whose own class is the first, among five.

    rows (B, D), class weights (C, D), labels (B,). The scores are rows weight^T + bias, or where `scale` is given scale
    times the cosine of rows (of length 1) and weights, the own class's cosine being replaced by add_margin(cosine) in
    the loss but not in the shares. A class that scores exactly as the own one counts as better.
    chunk_classes: for how many classes scores may exist at a time; `auto`: all, if they take 100 MiB or less.
    class_sample_rate: share of the classes that take part, those of `labels` and others at random, drawn from the CPU's
    generator, in which all ranks have to agree (Partial FC: An et al., 2021, arXiv 2010.05222).
    shard: which of all classes `weight` and `bias` are of, None for all; rows and labels are those of all ranks.
    """
    first_class = 0
    classes = len(weight)
    if shard is not None:
        first_class = shard.start
        classes = shard.classes
    if class_sample_rate < 1:
        sampled = sample_classes(labels, classes, class_sample_rate)
        if shard is not None:
            sampled = sampled[(sampled >= first_class) & (sampled < first_class + len(weight))]
        labels = _positions(sampled, labels)
        weight = weight[sampled - first_class]
        if bias is not None:
            bias = bias[sampled - first_class]
    elif shard is not None:
        labels = labels - first_class

    if chunk_classes == "auto":
        keeps_scores = rows.element_size() * len(rows) * len(weight) <= KEPT_BYTES
        step = CHUNK
    else:
        keeps_scores = len(weight) <= int(chunk_classes)
        step = min(CHUNK, int(chunk_classes))
    loss, better = _CrossEntropy.apply(rows, weight, bias, labels, scale, add_margin, keeps_scores, step, shard)
    return loss, {"acc1": (better < 1).float().mean(), "acc5": (better < 5).float().mean()}


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


class _CrossEntropy(torch.autograd.Function):
    """Scores stand as (classes, rows), so that the classes of a chunk are one piece of memory.

    Labels of classes that are not among the weight's are outside 0 to its length - 1; another rank has their score.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, scale, add_margin, keeps_scores, step, shard):
        ctx.shard = shard
        ctx.factors = None if scale is None else scale / lengths(weight)
        ctx.chunks = [slice(start, min(start + step, len(weight))) for start in range(0, len(weight), step)]
        own, own_in_loss, ctx.slope = _own_scores(rows, weight, bias, labels, scale, add_margin, shard)

        # Scores go into the table that backward reads, or each chunk's into the same piece of memory.
        ctx.kept = rows.new_empty(len(weight), len(rows)) if keeps_scores else None
        spare = rows.new_empty(min(step, len(weight)), len(rows))
        table = ctx.kept if keeps_scores else torch.empty_like(spare)

        # One pass over all classes: the largest score so far, the sum of exponentials over it, and how many scored as
        # high as the own class, which is not counted itself.
        largest = torch.full_like(own, -torch.inf)
        exp_sum = torch.zeros_like(own)
        better = torch.zeros_like(own)
        for chunk in ctx.chunks:
            scores = _scores(rows, weight, bias, ctx.factors, chunk, table)
            scratch = spare[: len(scores)]
            label_rows, inside = _label_rows(labels, chunk)
            at_labels = scores.gather(0, label_rows)
            own_counted = (inside & (at_labels >= own))[0]
            better += torch.ge(scores, own, out=scratch).sum(0) - own_counted.to(own.dtype)
            scores.scatter_(0, label_rows, torch.where(inside, own_in_loss, at_labels))
            before = largest
            largest = torch.maximum(largest, scores.amax(0))
            exp_sum = exp_sum * (before - largest).exp() + torch.sub(scores, largest, out=scratch).exp_().sum(0)
        if shard is not None:
            before = largest
            largest = shard.all_reduce_max(largest)
            exp_sum, better = shard.all_reduce_sum(torch.stack([exp_sum * (before - largest).exp(), better]))

        ctx.log_sum = largest + exp_sum.log()
        ctx.own_in_loss = own_in_loss
        ctx.save_for_backward(rows, weight, bias, labels)
        ctx.mark_non_differentiable(better)
        return (ctx.log_sum - own_in_loss).mean(), better

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        rows, weight, bias, labels = ctx.saved_tensors
        # The kept scores are written over here: should there be a second pass, it makes them again.
        kept = ctx.kept
        ctx.kept = None
        table = None
        if kept is None and ctx.chunks:
            table = rows.new_empty(ctx.chunks[0].stop, len(rows))

        to_rows = torch.zeros_like(rows)
        to_weight = torch.empty_like(weight)
        to_bias = None if bias is None else torch.empty_like(bias)
        for chunk in ctx.chunks:
            label_rows, inside = _label_rows(labels, chunk)
            if kept is None:
                scores = _scores(rows, weight, bias, ctx.factors, chunk, table)
                scores.scatter_(0, label_rows, torch.where(inside, ctx.own_in_loss, scores.gather(0, label_rows)))
            else:
                scores = kept[chunk]

            # Softmax, less one at the own class, whose score moves by `slope` with the score that margins leave alone.
            slopes = scores.sub_(ctx.log_sum).exp_()
            at_labels = slopes.gather(0, label_rows)
            slopes.scatter_(0, label_rows, torch.where(inside, (at_labels - 1) * ctx.slope, at_labels))
            slopes.mul_(upstream / len(rows))

            if bias is not None:
                torch.sum(slopes, 1, out=to_bias[chunk])
            if ctx.factors is not None:
                slopes.mul_(ctx.factors[chunk, None])
            to_rows.addmm_(slopes.T, weight[chunk])
            torch.mm(slopes, rows, out=to_weight[chunk])
            if ctx.factors is not None:  # a weight's length changes no cosine, so nothing pulls along the weight
                along = (to_weight[chunk] * weight[chunk]).sum(1) / lengths(weight[chunk]).square()
                to_weight[chunk].addcmul_(weight[chunk], along[:, None], value=-1)
        if ctx.shard is not None:
            to_rows = ctx.shard.all_reduce_sum(to_rows)
        return to_rows, to_weight, to_bias, None, None, None, None, None, None


def _own_scores(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    scale: float | None,
    add_margin: Callable[[torch.Tensor], torch.Tensor] | None,
    shard: ClassShard | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's score for its own class (B,), the one the loss takes, and the slope of the second over the first."""
    if shard is not None:
        # Each rank fills in the rows whose class it holds; the others are 0 and do not change the sum over ranks.
        inside = torch.nonzero((labels >= 0) & (labels < len(weight)))[:, 0]
        scores = _own_scores(rows[inside], weight, bias, labels[inside], scale, add_margin, None)
        table = rows.new_zeros(3, len(rows))
        table[:, inside] = torch.stack(scores)
        return shard.all_reduce_sum(table).unbind()

    own_weight = weight[labels]
    own = (rows * own_weight).sum(1)
    if scale is None:
        if bias is not None:
            own = own + bias[labels]
        return own, own, torch.ones_like(own)
    with torch.enable_grad():
        cosine = (own / lengths(own_weight)).requires_grad_()
        with_margin = add_margin(cosine)
        (slope,) = torch.autograd.grad(with_margin.sum(), cosine)
    return scale * cosine.detach(), scale * with_margin.detach(), slope


def _scores(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    factors: torch.Tensor | None,
    chunk: slice,
    table: torch.Tensor,
) -> torch.Tensor:
    """Scores (classes, rows) of the classes of `chunk`, written into `table`.

    A table with a row for each class gets them in their rows, a smaller one in its first.
    """
    if len(table) == len(weight):
        scores = table[chunk]
    else:
        scores = table[: chunk.stop - chunk.start]
    torch.mm(weight[chunk], rows.T, out=scores)
    if factors is not None:
        scores.mul_(factors[chunk, None])
    if bias is not None:
        scores.add_(bias[chunk, None])
    return scores


def _label_rows(labels: torch.Tensor, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (1, B) of a chunk's scores where each label's stands, and whether it is in this chunk at all (1, B)."""
    positions = labels[None] - chunk.start
    last = chunk.stop - chunk.start - 1
    return positions.clamp(0, last), (positions >= 0) & (positions <= last)
