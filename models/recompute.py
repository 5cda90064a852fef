"""Activations that are made again in the backward pass instead of kept: less memory for about a third more time."""

import contextlib
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.backbones import submodules_or_parameters
from models.batchnorm import statistics_of_copies
from models.embedder import Embedder


class Recomputed:
    """In front of a module's class: of its forward pass in training the inputs alone are kept.

    Chen et al., 2016, arXiv 1604.06174. The gradient is the same: what was dropped is dropped again, and BatchNorm's
    statistics take a batch in once.
    """

    def forward(self, *inputs: Any, **further: Any) -> Any:
        forward = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return forward(*inputs, **further)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=self._contexts, **further)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        """Around the forward pass, and around it when it is made again."""
        return contextlib.nullcontext(), statistics_of_copies(self)


@cache
def recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class `kind`, recomputed. A class and no function in an object, so that a copy of a network runs itself."""
    return type(f"Recomputed{kind.__name__}", (Recomputed, kind), {})


def recompute_stages(model: Embedder) -> None:
    """Recompute every stage of the backbone that learns and consists of more than one layer, in place."""
    for stage in model.stages:
        for part in submodules_or_parameters(model.backbone, stage):
            has_layers = isinstance(part, nn.Module) and any(True for _ in part.children())
            if has_layers and any(weight.requires_grad for weight in part.parameters()):
                part.__class__ = recomputed(type(part))
