"""Cross-entropy over many classes, a chunk of them at a time: what most losses over class weights share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from losses._class_scores import (
    Centres,
    ChunkedScores,
    ClassShard,
    Scoring,
    TakingPart,
    classes_taking_part,
    plan_scores,
    shares,
)


class Smoothing(NamedTuple):
    """What is taken from a row's own class and spread over a set of classes: all, or those of its category.

    epsilon: how much is spread; share (B,): what each class of the set gets; of_classes (n,), of_rows (B,): categories,
    None where the set is all classes.
    """

    epsilon: float
    share: torch.Tensor
    of_classes: torch.Tensor | None
    of_rows: torch.Tensor | None

    def masked(self, chunk: slice, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers, (n, B) or to be expanded to it, that are 0 where a class of the chunk is not in the row's set."""
        if self.of_classes is None:
            return numbers
        return torch.where(self.of_classes[chunk, None] == self.of_rows, numbers, 0)


def class_cross_entropy(
    rows: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    add_margin: Callable[[torch.Tensor], torch.Tensor] | None = None,
    centres: Centres | None = None,
    label_smoothing: float = 0.0,
    categories: torch.Tensor | None = None,
    images: int | None = None,
    chunk_classes: str | int = "auto",
    class_sample_rate: float = 1.0,
    shard: ClassShard | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean cross-entropy, a scalar, and {"acc1", "acc5"}: shares of rows whose own class is the first, among five.

    rows (B, D), class weights (C, D), labels (B,). The scores are rows weight^T + bias, or where `scale` is given scale
    times the cosine of rows (of length 1) and weights, the own class's cosines (B,) being replaced by
    add_margin(cosines) in the loss but not in the shares. A class that scores exactly as the own one counts as better.
    centres: with weights (C, K, D), how a class's score comes of those of its K centres.
    label_smoothing: how much of a row's target is spread evenly over all classes, or where `categories` (all classes,)
    of int64 are given over those of the own class's category (Szegedy et al., 2015, arXiv 1512.00567, section 7).
    images: how many of the first rows count in the shares, None for all.
    chunk_classes: for how many classes scores may exist at a time; `auto`: all, if they take 100 MiB or less.
    class_sample_rate: share of the classes that take part, those of `labels` and others at random, drawn from the CPU's
    generator, in which all ranks have to agree (Partial FC: An et al., 2021, arXiv 2010.05222).
    shard: which of all classes `weight` and `bias` are of, None for all; rows and labels are those of all ranks.
    """
    part = classes_taking_part([weight, bias], labels, class_sample_rate, shard)
    weight, bias = part.tables
    smoothing = None
    if label_smoothing:
        smoothing = _smoothing(rows, labels, label_smoothing, categories, part)
    scoring = plan_scores(rows, weight, scale, centres, chunk_classes, shard)
    loss, better = _CrossEntropy.apply(rows, weight, bias, part.positions, add_margin, smoothing, scoring)
    return loss, shares(better[:images])


def _smoothing(
    rows: torch.Tensor, labels: torch.Tensor, epsilon: float, categories: torch.Tensor | None, part: TakingPart
) -> Smoothing:
    """The Smoothing over the classes that take part."""
    if categories is None:
        return Smoothing(epsilon, rows.new_full((len(rows),), epsilon / part.count), None, None)
    of_rows = categories[labels]
    sizes = rows.new_zeros(len(categories))  # there are no more categories than classes
    if part.numbers is not None:
        categories = categories[part.numbers]
    sizes.index_add_(0, categories, rows.new_ones(len(categories)))
    return Smoothing(epsilon, epsilon / sizes[of_rows], categories[part.held], of_rows)


class _CrossEntropy(torch.autograd.Function):
    """(mean cross-entropy, how many classes score at least as high as each row's own one (B,))."""

    @staticmethod
    def forward(
        ctx,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        positions: torch.Tensor,
        add_margin: Callable[[torch.Tensor], torch.Tensor] | None,
        smoothing: Smoothing | None,
        scoring: Scoring,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = ChunkedScores(scoring, rows, weight, bias, positions)
        own, own_in_loss, ctx.slope = _with_margin(scores.own(), scoring.scale, add_margin)
        # Scores go into the table that backward reads, or each chunk's into the same piece of memory. Those of classes
        # with one centre leave their exponentials there, which backward need not take again.
        table = scores.table()
        spare = scores.scratch()

        # One pass over all classes: the largest score so far, the sum of exponentials over it, and how many scored as
        # high as the own class, which is not counted itself.
        largest = torch.full_like(own, -torch.inf)
        exp_sum = torch.zeros_like(own)
        better = torch.zeros_like(own)
        score_sum = torch.zeros_like(own)
        shifts = []
        for chunk in scores.chunks:
            of_classes = scores.of_classes(scores.of_centres(chunk, table))
            scratch = spare[: len(of_classes)]
            own_rows, inside = scores.own_rows(chunk)
            at_own = of_classes.gather(0, own_rows)
            own_counted = (inside & (at_own >= own))[0]
            better += torch.ge(of_classes, own, out=scratch).sum(0) - own_counted.to(own.dtype)
            of_classes.scatter_(0, own_rows, torch.where(inside, own_in_loss, at_own))
            before = largest
            largest = torch.maximum(largest, of_classes.amax(0))
            if smoothing is not None:
                score_sum += smoothing.masked(chunk, of_classes).sum(0)
            exp_sum = exp_sum * (before - largest).exp() + of_classes.sub_(largest).exp_().sum(0)
            shifts.append(largest)
        shard = scoring.shard
        if shard is not None:
            before = largest
            largest = shard.all_reduce_max(largest)
            numbers = torch.stack([exp_sum * (before - largest).exp(), better, score_sum])
            exp_sum, better, score_sum = shard.all_reduce_sum(numbers)

        ctx.log_sum = largest + exp_sum.log()
        ctx.own_in_loss = own_in_loss
        ctx.smoothing = smoothing
        ctx.scoring = scoring
        ctx.kept = table if scoring.keeps_scores else None
        ctx.shifts = shifts
        ctx.factors = scores.factors
        ctx.save_for_backward(rows, weight, bias, positions)
        ctx.mark_non_differentiable(better)
        target = own_in_loss
        if smoothing is not None:
            target = (1 - smoothing.epsilon) * own_in_loss + smoothing.share * score_sum
        return (ctx.log_sum - target).mean(), better

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: torch.Tensor, _) -> tuple[torch.Tensor | None, ...]:
        rows, weight, bias, positions = ctx.saved_tensors
        scores = ChunkedScores(ctx.scoring, rows, weight, bias, positions, ctx.factors)
        # The kept scores are written over here: should there be a second pass, it makes them again.
        kept = ctx.kept
        ctx.kept = None
        table = scores.table() if kept is None else kept
        has_exponentials = kept is not None and ctx.scoring.centres is None
        smoothing = ctx.smoothing
        own_target = 1.0
        if smoothing is not None:
            own_target = 1 - smoothing.epsilon

        scores.begin_gradients()
        of_mean = upstream / len(rows)
        for chunk, shift in zip(scores.chunks, ctx.shifts):
            own_rows, inside = scores.own_rows(chunk)
            of_centres = scores.of_centres(chunk, table, made=kept is not None)
            of_classes = scores.of_classes(of_centres)
            # Softmax of the scores with the margin, each over the number of rows.
            if has_exponentials:
                slopes = of_classes.mul_((shift - ctx.log_sum).exp() * of_mean)
            else:
                at_own = of_classes.gather(0, own_rows)
                of_classes.scatter_(0, own_rows, torch.where(inside, ctx.own_in_loss, at_own))
                slopes = of_classes.sub_(ctx.log_sum).exp_().mul_(of_mean)

            # Less the target; the own class's score moves by `slope` with the one that margins leave alone.
            if smoothing is not None:
                slopes.sub_(smoothing.masked(chunk, smoothing.share * of_mean))
            at_own = slopes.gather(0, own_rows)
            slopes.scatter_(0, own_rows, torch.where(inside, (at_own - own_target * of_mean) * ctx.slope, at_own))
            scores.add_gradients(chunk, of_centres, slopes)
        return *scores.gradients(), None, None, None, None


def _with_margin(
    own: torch.Tensor, scale: float | None, add_margin: Callable[[torch.Tensor], torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's score for its own class (B,), the one the loss takes, and the slope of the second over the first."""
    if scale is None:
        return own, own, torch.ones_like(own)
    if add_margin is None:
        return scale * own, scale * own, torch.ones_like(own)
    with torch.enable_grad():
        cosine = own.detach().requires_grad_()
        with_margin = add_margin(cosine)
        (slope,) = torch.autograd.grad(with_margin.sum(), cosine)
    return scale * cosine.detach(), scale * with_margin.detach(), slope
