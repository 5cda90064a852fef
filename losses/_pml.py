"""Losses of pytorch-metric-learning under the names pml:NAME, with its miners and distances (core/pml.py)."""

import functools
from collections.abc import Callable

import torch
from torch import nn

from core import pml
from core.errors import InputError, first_line, unknown
from core.registry import Entry
from losses._mined import Pairs, Triplets
from losses._precision import full_precision

# Prefixes of the options of a miner and of a distance, whose keywords may be the loss's, too.
OF_MINER, OF_DISTANCE = "pml_miner_", "pml_distance_"


def pml_entry(name: str) -> Entry:
    """What LOSSES says of a name such as pml:TripletMarginLoss. Raises InputError as `core.pml.loss_class` does."""
    described = pml.loss_class(name)
    stage = "elem" if described.over_classes else "pair"
    return Entry(functools.partial(PmlLoss, described), {"stage": stage, "batch": "pk", "mined": "either"})


class PmlLoss(nn.Module):
    """A loss of the package, in float32 at least, with a miner and a distance of it where they are named.

    options: keywords of the loss; pml_miner and pml_distance, names or "none"; pml_miner_KEYWORD, pml_distance_KEYWORD.
    The distance is the miner's, too. Raises InputError for what the package refuses, with its own words.
    """

    def __init__(self, described: pml.PmlClass, embedding_size: int, num_classes: int, **options: object) -> None:
        super().__init__()
        settings = dict(options)
        miner = settings.pop("pml_miner", "none")
        distance = settings.pop("pml_distance", "none")
        miner_settings = _taken(settings, OF_MINER)
        distance_settings = _taken(settings, OF_DISTANCE)
        for need in described.needs:
            settings[need] = num_classes if need in pml.NUM_CLASSES else embedding_size
        if distance != "none":
            settings["distance"] = _made("distances", distance, distance_settings)
        self.miner = None
        if miner != "none":
            if distance != "none":
                miner_settings["distance"] = settings["distance"]
            self.miner = _made("miners", miner, miner_settings)
        self.loss = _made("losses", described.name, settings)
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, mined: Pairs | Triplets | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,)."""
        chosen = None if mined is None else tuple(mined)
        if self.miner is not None:
            if mined is not None:
                raise InputError("--miner and --pml_miner both choose pairs; leave one of them out")
            chosen = self.miner(embeddings, labels)
        loss = self.loss(embeddings, labels, chosen)
        # A loss that found no pair is a sum over nothing, which some give without a graph.
        return loss if loss.requires_grad else loss + 0 * embeddings.sum()


def _taken(settings: dict[str, object], prefix: str) -> dict[str, object]:
    """The settings of that prefix, without it; they are gone from `settings`."""
    names = [name for name in settings if name.startswith(prefix)]
    return {name.removeprefix(prefix): settings.pop(name) for name in names}


def _made(kind: str, name: str, settings: dict[str, object]) -> Callable:
    """An object of the package's `kind`: "losses", "miners" or "distances"."""
    if name not in pml.classes(kind):
        raise unknown(f"pml {kind}", name, pml.classes(kind))
    try:
        from pytorch_metric_learning import distances, losses, miners
    except ImportError as error:
        raise InputError(f"pytorch-metric-learning cannot be imported ({first_line(error)}): {pml.INSTALL}") from None
    modules = {"losses": losses, "miners": miners, "distances": distances}
    try:
        return getattr(modules[kind], name)(**settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{name} of pytorch-metric-learning refuses {settings}: {first_line(error)}") from None
