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
