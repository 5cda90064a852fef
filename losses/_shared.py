"""What several losses need: checked float32 input, unit vectors."""

import functools
import math

import torch

from core.errors import InputError

SHORTEST = 1e-12  # a row shorter than this has no direction


def full_precision(method):
    """Decorate `method(self, embeddings[, labels])`: check both, switch autocast off, lift half types to float32.

    float64 stays float64; labels arrive as int64. Raises InputError for wrong types and shapes.
    """

    @functools.wraps(method)
    def in_full_precision(self, embeddings, labels=None):
        check_embeddings(embeddings)
        arguments = [embeddings.float() if embeddings.dtype.itemsize < 4 else embeddings]
        if labels is not None:
            check_labels(labels, len(embeddings))
            arguments.append(labels.long())
        with torch.autocast(embeddings.device.type, enabled=False):
            return method(self, *arguments)

    return in_full_precision


def check_embeddings(embeddings):
    """Raise InputError unless `embeddings` is a floating (B, D) tensor with at least one row."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise InputError(f"embeddings have shape {tuple(embeddings.shape)}; a loss takes (B, D) with B >= 1")
    if not embeddings.is_floating_point():
        raise InputError(f"embeddings are {embeddings.dtype}; a loss takes floating-point numbers")


def check_labels(labels, rows):
    """Raise InputError unless `labels` is an integer tensor of shape (rows,)."""
    if labels.shape != (rows,):
        raise InputError(f"labels have shape {tuple(labels.shape)}; {rows} rows of embeddings need ({rows},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels are {labels.dtype}; a loss takes integers")


def check_option(name, value, low, high=math.inf, above=False):
    """Raise InputError unless low <= value <= high, low < value where `above`, and value is finite."""
    if not (low <= value <= high and math.isfinite(value)) or above and value == low:
        allowed = f"{'above ' if above else ''}{low} to {high}, finite"
        raise InputError(f"{name}={value} is outside what the loss allows: {allowed}")


def check_classes(embeddings, labels, weight, part=None):
    """Raise InputError unless embeddings (B, D) fit the class weights (C, D), or a Part of them, labels being 0..C-1.

    Labels are looked at on the CPU only: elsewhere it would stall the device in every step, and cross-entropy
    stops there by itself, with a less friendly message.
    """
    classes, width = part.classes if part else len(weight), weight.shape[1]
    if embeddings.shape[1] != width:
        raise InputError(f"embeddings have {embeddings.shape[1]} columns; the class weights have {width}")
    if labels.device.type == "cpu":
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise InputError(f"label {outside[0]} is outside 0..{classes - 1}, the {classes} classes of the loss")


def unit(rows):
    """Rows (N, D) scaled to length one; a row shorter than 1e-12 becomes zero and gets no gradient (never NaN)."""
    return rows / lengths(rows)[:, None]


def lengths(rows):
    """Divisors (N,) that scale rows (N, D) to length one: their lengths, or infinity below 1e-12."""
    found = torch.linalg.vector_norm(rows, dim=1)
    return torch.where(found > SHORTEST, found, math.inf)
