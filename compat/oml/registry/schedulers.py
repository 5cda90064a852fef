"""OML's names of torch's schedules of the learning rate."""

from collections.abc import Mapping
from typing import Any

from torch.optim import lr_scheduler

from compat.oml._tables import entry, options_of

SCHEDULERS_REGISTRY = {
    "lambda": lr_scheduler.LambdaLR,
    "multiplicative": lr_scheduler.MultiplicativeLR,
    "step": lr_scheduler.StepLR,
    "multi_step": lr_scheduler.MultiStepLR,
    "exponential": lr_scheduler.ExponentialLR,
    "cosine_annealing": lr_scheduler.CosineAnnealingLR,
    "cyclic": lr_scheduler.CyclicLR,
    "one_cycle": lr_scheduler.OneCycleLR,
    "reduce_on_plateau": lr_scheduler.ReduceLROnPlateau,
}


def get_scheduler(name: str, **options: Any) -> lr_scheduler.LRScheduler:
    """The schedule of that name. Raises UnknownName."""
    return entry("scheduler", name, SCHEDULERS_REGISTRY)(**options)


def get_scheduler_by_cfg(cfg: Mapping[str, Any], **further: Any) -> lr_scheduler.LRScheduler:
    """The schedule of a section."""
    return get_scheduler(cfg["name"], **options_of(cfg, further))


__all__ = ["SCHEDULERS_REGISTRY", "get_scheduler", "get_scheduler_by_cfg"]
