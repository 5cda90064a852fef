"""OML's names of losses."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from compat.oml._tables import entry, known_options, options_of
from compat.oml.losses import (
    ArcFaceLoss,
    ArcFaceLossWithMLP,
    SurrogatePrecision,
    TripletLoss,
    TripletLossPlain,
    TripletLossWithMiner,
)
from compat.oml.registry.miners import get_miner_by_cfg

LOSSES_REGISTRY = {
    "triplet": TripletLoss,
    "triplet_plain": TripletLossPlain,
    "triplet_with_miner": TripletLossWithMiner,
    "surrogate_precision": SurrogatePrecision,
    "arcface": ArcFaceLoss,
    "mlp_arcface": ArcFaceLossWithMLP,
}


def get_criterion(name: str, **options: Any) -> nn.Module:
    """The loss of that name; options that it does not take are left out, `miner` is a section. Raises UnknownName."""
    loss = entry("loss", name, LOSSES_REGISTRY)
    if "miner" in options:
        options["miner"] = get_miner_by_cfg(options["miner"])
    return loss(**known_options(loss, options))


def get_criterion_by_cfg(cfg: Mapping[str, Any], **further: Any) -> nn.Module:
    """The loss of a section."""
    return get_criterion(cfg["name"], **options_of(cfg, further))


__all__ = ["LOSSES_REGISTRY", "get_criterion", "get_criterion_by_cfg"]
