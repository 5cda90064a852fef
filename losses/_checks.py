"""What a loss refuses: embeddings, labels and options that its formula has no value for."""

import math

import torch

from core.errors import InputError
from core.text import counted, plural


def check_embeddings(embeddings: torch.Tensor) -> None:
    """Raise InputError unless `embeddings` is a floating (B, D) tensor with at least one row."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise InputError(f"embeddings have shape {tuple(embeddings.shape)}; a loss takes (B, D) with B >= 1")
    if not embeddings.is_floating_point():
        raise InputError(f"embeddings are {embeddings.dtype}; a loss takes floating-point numbers")


def check_labels(labels: torch.Tensor, rows: int) -> None:
    """Raise InputError unless `labels` is an integer tensor of shape (rows,)."""
    if labels.shape != (rows,):
        raise InputError(
            f"labels have shape {tuple(labels.shape)}; {counted(rows, 'row')} of embeddings "
            f"{plural(rows, 'needs', 'need')} ({rows},)"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels are {labels.dtype}; a loss takes integers")


def check_option(name: str, value: float, low: float, high: float = math.inf, above: bool = False) -> None:
    """Raise InputError unless low <= value <= high, low < value where `above`, and value is finite."""
    in_range = low <= value <= high and math.isfinite(value)
    if above and value == low:
        in_range = False
    if not in_range:
        bounds = f"above {low}" if above else f"{low}"
        raise InputError(f"{name}={value} is outside what the loss allows: {bounds} to {high}, finite")


def check_classes(embeddings: torch.Tensor, labels: torch.Tensor, width: int, classes: int) -> None:
    """Raise InputError unless embeddings (B, D) are as wide as the class weights and labels are 0..classes-1.

    Labels are looked at on the CPU only: elsewhere it would stall the device in every step, and cross-entropy
    stops there by itself, with a less friendly message.
    """
    if embeddings.shape[1] != width:
        raise InputError(f"embeddings have {counted(embeddings.shape[1], 'column')}; the class weights have {width}")
    if labels.device.type == "cpu":
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise InputError(
                f"label {outside[0]} is outside 0..{classes - 1}, the {counted(classes, 'class')} of the loss"
            )
