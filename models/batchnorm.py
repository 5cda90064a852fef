"""BatchNorm layers of a network in training."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def statistics_left_alone(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers of `model` do not update their running statistics meanwhile."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for layer in layers:
        # In evaluation the running ones are in use, so there they have to stay tracked.
        layer.track_running_stats = not layer.training
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextlib.contextmanager
def statistics_of_copies(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers of `model` update copies of their running statistics meanwhile, and so keep as many tensors.

    A pass that is made again has to keep for the backward pass what it kept the first time.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    buffers = [dict(layer.named_buffers(recurse=False)) for layer in layers]
    for layer, own in zip(layers, buffers):
        for name, value in own.items():
            setattr(layer, name, value.clone())
    try:
        yield
    finally:
        for layer, own in zip(layers, buffers):
            for name, value in own.items():
                setattr(layer, name, value)
