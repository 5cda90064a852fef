"""Cross-entropy over many classes without their scores in memory: what softmax and arcmargin share.

Scores are made a few thousand classes at a time, which stay in the cache while they are scaled, summed and counted.
What crosses from forward to backward is one number per row, and the scores themselves only while they are small.
"""

import torch
from torch.autograd.function import once_differentiable

from errors import InputError
from losses._shared import lengths

KEPT_BYTES = 100 * 2**20  # of scores that wait for the backward pass; where it would be more they are made twice
CHUNK = 2048  # classes at a time


def class_cross_entropy(rows, weight, labels, *, bias=None, scale=None, put_off=None, chunk_classes="auto"):
    """Mean cross-entropy, a scalar, and {"acc1", "acc5"}: shares of rows whose own class is the first, among five.

    rows (B, D), class weights (C, D), labels (B,). The scores are rows weight^T + bias, or where `scale` is given scale
    times the cosine of rows (of length 1) and weights, the own class's cosine being replaced by put_off(cosine) in the
    loss but not in the shares. A class that scores exactly as the own one counts as better.
    chunk_classes: for how many classes scores may exist at a time; `auto`: all, if they take 100 MiB or less.
    """
    kept = rows.element_size() * len(rows) * len(weight) <= KEPT_BYTES
    if chunk_classes != "auto":
        kept = len(weight) <= int(chunk_classes)
    step = CHUNK if chunk_classes == "auto" else min(CHUNK, int(chunk_classes))
    loss, better = _CrossEntropy.apply(rows, weight, bias, labels, scale, put_off, kept, step)
    return loss, {"acc1": (better < 1).float().mean(), "acc5": (better < 5).float().mean()}


def check_chunk(chunk_classes):
    """Raise InputError unless `chunk_classes` is auto or a whole number from 1."""
    if chunk_classes != "auto" and not (str(chunk_classes).isdecimal() and int(chunk_classes)):
        raise InputError(f"chunk_classes={chunk_classes} is neither auto nor a number of classes, 1 or more")


class _CrossEntropy(torch.autograd.Function):
    """Scores stand as (classes, rows), so that the classes of a chunk are one piece of memory."""

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, scale, put_off, kept, step):
        ctx.factors = None if scale is None else scale / lengths(weight)
        own, own_loss, ctx.slope = _own_scores(rows, weight[labels], bias, labels, scale, put_off)
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
        scratch = rows.new_empty(ctx.chunks[0].stop, len(rows)) if kept is None else None
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
        return to_rows, to_weight, to_bias, None, None, None, None, None


def _own_scores(rows, own_weight, bias, labels, scale, put_off):
    """Each row's score for its own class (B,), the one the loss takes, and the slope of the second over the first."""
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
