"""OML's names of torch's optimisers."""

from collections.abc import Mapping
from typing import Any

from torch import optim

from compat.oml._tables import entry, options_of

OPTIMIZERS_REGISTRY = {
    "adadelta": optim.Adadelta,
    "adagrad": optim.Adagrad,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "adamax": optim.Adamax,
    "asgd": optim.ASGD,
    "lbfgs": optim.LBFGS,
    "rmsprop": optim.RMSprop,
    "rprop": optim.Rprop,
    "sgd": optim.SGD,
}


def get_optimizer(name: str, **options: Any) -> optim.Optimizer:
    """The optimiser of that name. Raises UnknownName."""
    return entry("optimizer", name, OPTIMIZERS_REGISTRY)(**options)


def get_optimizer_by_cfg(cfg: Mapping[str, Any], **further: Any) -> optim.Optimizer:
    """The optimiser of a section."""
    return get_optimizer(cfg["name"], **options_of(cfg, further))


__all__ = ["OPTIMIZERS_REGISTRY", "get_optimizer", "get_optimizer_by_cfg"]
