"""Cross-entropy over many classes without their scores in memory: what softmax and arcmargin share.

Scores are made a few thousand classes at a time, which stay in the cache while they are scaled, summed and counted.
What crosses from forward to backward is one number per row, and the scores themselves only while they are small.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from core.errors import InputError
from losses._shared import check_option, lengths

KEPT_BYTES = 100 * 2**20  # of scores that wait for the backward pass; where it would be more they are made twice
CHUNK = 2048  # classes at a time


class Part(NamedTuple):
    """Which classes a weight's rows stand for, where each of several ranks has a part of all.

    start: the first of them; classes: of how many; total, highest: functions from a tensor to its sum or maximum over
    the ranks, without gradient.
    """

    start: int
    classes: int
    total: Callable
    highest: Callable


class ClassLoss(nn.Module):
    """A loss over `weight` (C, D), of which every parameter has a row for each class, all (`part` is None) or some.

    The weight is drawn from U(-bound, bound). chunk_classes, class_sample_rate: see class_cross_entropy, as
    chunk_classes and share. Raises InputError for others.
    """

    part = None

    def __init__(self, num_classes, embedding_size, bound, chunk_classes, class_sample_rate):
        super().__init__()
        check_chunk(chunk_classes)
        check_option("class_sample_rate", class_sample_rate, 0, 1)
        self.chunk_classes, self.class_sample_rate = chunk_classes, class_sample_rate
        self.bound, self.logs = bound, {}
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size).uniform_(-bound, bound))

    def cross_entropy(self, rows, labels, **scoring):
        """class_cross_entropy of rows (B, D) and labels (B,) with this loss's weight and options; fills `logs`."""
        how = {"chunk_classes": self.chunk_classes, "share": self.class_sample_rate, "part": self.part}
        loss, self.logs = class_cross_entropy(rows, self.weight, labels, **scoring, **how)
        return loss

    @classmethod
    def of_part(cls, rows, total, highest, **settings):
        """The loss of `settings` with `rows` (a slice) of its parameters alone, the other ranks having the rest.

        total, highest: see Part. These are the rows that the whole loss would have, and random numbers go on as after
        it, but it never is in memory. Parameters other than the weight begin at 0.
        """
        with torch.device("meta"):
            loss = cls(**settings)
        classes = len(loss.weight)
        for name, parameter in list(loss.named_parameters()):
            values = torch.zeros(rows.stop - rows.start, *parameter.shape[1:])
            setattr(loss, name, nn.Parameter(values))
        _draw_rows(loss.weight.data, loss.bound, classes, rows.start)
        loss.part = Part(rows.start, classes, total, highest)
        return loss


def _draw_rows(table, bound, classes, start):
    """Fill `table` (n, D) with the rows from `start` on of one of so many classes, which is drawn chunk by chunk."""
    scratch = torch.empty(min(CHUNK, classes), table.shape[1])
    for first in range(0, classes, CHUNK):
        drawn = scratch[: classes - first].uniform_(-bound, bound)
        own = slice(max(first, start), min(first + len(drawn), start + len(table)))
        if own.start < own.stop:
            table[own.start - start : own.stop - start] = drawn[own.start - first : own.stop - first]


def class_cross_entropy(
    rows, weight, labels, *, bias=None, scale=None, put_off=None, chunk_classes="auto", share=1.0, part=None
):
    """Mean cross-entropy, a scalar, and {"acc1", "acc5"}: shares of rows whose own class is the first, among five.

    rows (B, D), class weights (C, D), labels (B,). The scores are rows weight^T + bias, or where `scale` is given scale
    times the cosine of rows (of length 1) and weights, the own class's cosine being replaced by put_off(cosine) in the
    loss but not in the shares. A class that scores exactly as the own one counts as better.
    chunk_classes: for how many classes scores may exist at a time; `auto`: all, if they take 100 MiB or less.
    share: of the classes that take part, those of `labels` and others at random, drawn from the CPU's generator, in
    which all ranks have to agree (Partial FC: An et al., 2021, arXiv 2010.05222).
    part: the Part that `weight` and `bias` are of all classes, None for all; rows and labels are those of all ranks.
    """
    if share < 1:
        chosen = drawn_classes(labels, part.classes if part else len(weight), share)
        if part:
            chosen = chosen[(chosen >= part.start) & (chosen < part.start + len(weight))]
        labels = _position(chosen, labels)
        chosen = chosen - (part.start if part else 0)
        weight, bias = weight[chosen], None if bias is None else bias[chosen]
    elif part:
        labels = labels - part.start
    kept = rows.element_size() * len(rows) * len(weight) <= KEPT_BYTES
    if chunk_classes != "auto":
        kept = len(weight) <= int(chunk_classes)
    step = CHUNK if chunk_classes == "auto" else min(CHUNK, int(chunk_classes))
    loss, better = _CrossEntropy.apply(rows, weight, bias, labels, scale, put_off, kept, step, part)
    return loss, {"acc1": (better < 1).float().mean(), "acc5": (better < 5).float().mean()}


def drawn_classes(labels, classes, share):
    """Sorted numbers (n,) of the classes that take part: those of `labels`, and others at random until n is `share` of
    all; n is the number of labels at least, so that all find room without looking at them."""
    keys = torch.rand(classes).to(labels.device).index_fill(0, labels, 2)
    return keys.topk(min(classes, max(round(share * classes), len(labels)))).indices.sort().values


def _position(chosen, labels):
    """Where each label stands among the sorted classes `chosen`, -1 for one that is not there."""
    if not len(chosen):
        return torch.full_like(labels, -1)
    place = torch.searchsorted(chosen, labels).clamp_max(len(chosen) - 1)
    return torch.where(chosen[place] == labels, place, -1)


def check_chunk(chunk_classes):
    """Raise InputError unless `chunk_classes` is auto or a whole number from 1."""
    if chunk_classes != "auto" and not (str(chunk_classes).isdecimal() and int(chunk_classes)):
        raise InputError(f"chunk_classes={chunk_classes} is neither auto nor a number of classes, 1 or more")


class _CrossEntropy(torch.autograd.Function):
    """Scores stand as (classes, rows), so that the classes of a chunk are one piece of memory.

    Labels of classes that are not among the weight's are outside 0 to its length - 1; another rank has their score.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, scale, put_off, kept, step, part):
        ctx.factors, ctx.part = None if scale is None else scale / lengths(weight), part
        own, own_loss, ctx.slope = _own_scores(rows, weight, bias, labels, scale, put_off, part)
        ctx.chunks = [slice(start, min(start + step, len(weight))) for start in range(0, len(weight), step)]
        ctx.kept = rows.new_empty(len(weight), len(rows)) if kept else None
        buffer = rows.new_empty(min(step, len(weight)), len(rows))
        scratch = None if kept else torch.empty_like(buffer)
        highest, total, better = torch.full_like(own, -torch.inf), torch.zeros_like(own), torch.zeros_like(own)
        for chunk in ctx.chunks:
            scores = _scores(rows, weight, bias, ctx.factors, chunk, ctx.kept if kept else scratch)
            spare = buffer[: len(scores)]
            place, inside = _place(labels, chunk)
            found = scores.gather(0, place)
            better += torch.ge(scores, own, out=spare).sum(0) - (inside & (found >= own))[0].to(own.dtype)
            scores.scatter_(0, place, torch.where(inside, own_loss, found))
            before, highest = highest, torch.maximum(highest, scores.amax(0))
            total = total * (before - highest).exp() + torch.sub(scores, highest, out=spare).exp_().sum(0)
        if part:
            before, highest = highest, part.highest(highest)
            total, better = part.total(torch.stack([total * (before - highest).exp(), better]))
        ctx.log_sum = highest + total.log()
        ctx.own_loss = own_loss
        ctx.save_for_backward(rows, weight, bias, labels)
        ctx.mark_non_differentiable(better)
        return (ctx.log_sum - own_loss).mean(), better

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        rows, weight, bias, labels = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # written over here: should there be a second pass, it makes them again
        scratch = rows.new_empty(ctx.chunks[0].stop, len(rows)) if kept is None and ctx.chunks else None
        to_rows, to_weight = torch.zeros_like(rows), torch.empty_like(weight)
        to_bias = None if bias is None else torch.empty_like(bias)
        for chunk in ctx.chunks:
            place, inside = _place(labels, chunk)
            if kept is None:
                scores = _scores(rows, weight, bias, ctx.factors, chunk, scratch)
                scores.scatter_(0, place, torch.where(inside, ctx.own_loss, scores.gather(0, place)))
            else:
                scores = kept[chunk]
            slopes = scores.sub_(ctx.log_sum).exp_()
            found = slopes.gather(0, place)
            slopes.scatter_(0, place, torch.where(inside, (found - 1) * ctx.slope, found))
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
        if ctx.part:
            to_rows = ctx.part.total(to_rows)
        return to_rows, to_weight, to_bias, None, None, None, None, None, None


def _own_scores(rows, weight, bias, labels, scale, put_off, part):
    """Each row's score for its own class (B,), the one the loss takes, and the slope of the second over the first."""
    if part:
        here = torch.nonzero((labels >= 0) & (labels < len(weight)))[:, 0]
        found = _own_scores(rows[here], weight, bias, labels[here], scale, put_off, None)
        table = rows.new_zeros(3, len(rows))
        table[:, here] = torch.stack(found)
        return part.total(table).unbind()
    own_weight = weight[labels]
    own = (rows * own_weight).sum(1)
    if scale is None:
        own = own if bias is None else own + bias[labels]
        return own, own, torch.ones_like(own)
    with torch.enable_grad():
        cosine = (own / lengths(own_weight)).requires_grad_()
        turned = put_off(cosine)
        (slope,) = torch.autograd.grad(turned.sum(), cosine)
    return scale * cosine.detach(), scale * turned.detach(), slope


def _scores(rows, weight, bias, factors, chunk, table):
    """Scores (classes, rows) of the classes of `chunk`, in `table`: in their place if it is whole, else first."""
    whole = len(table) == len(weight)
    scores = table[chunk] if whole else table[: chunk.stop - chunk.start]
    torch.mm(weight[chunk], rows.T, out=scores)
    if factors is not None:
        scores.mul_(factors[chunk, None])
    return scores if bias is None else scores.add_(bias[chunk, None])


def _place(labels, chunk):
    """Rows (1, B) of a chunk's scores where each label's stands, and whether it is in this chunk at all (1, B)."""
    place = labels[None] - chunk.start
    last = chunk.stop - chunk.start - 1
    return place.clamp(0, last), (place >= 0) & (place <= last)
