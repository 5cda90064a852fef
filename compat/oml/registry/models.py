"""OML's names of networks."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from compat.oml._tables import entry, options_of
from compat.oml.interfaces.models import IExtractor, IPairwiseModel
from compat.oml.models import (
    ConcatSiamese,
    ExtractorWithMLP,
    LinearTrivialDistanceSiamese,
    ResnetExtractor,
    TrivialDistanceSiamese,
    ViTCLIPExtractor,
    ViTExtractor,
    ViTUnicomExtractor,
)
from core.errors import InputError

EXTRACTORS_REGISTRY = {
    "resnet": ResnetExtractor,
    "vit": ViTExtractor,
    "vit_clip": ViTCLIPExtractor,
    "vit_unicom": ViTUnicomExtractor,
    "extractor_with_mlp": ExtractorWithMLP,
}
PAIRWISE_MODELS_REGISTRY = {
    "linear_siamese": LinearTrivialDistanceSiamese,
    "concat_siamese": ConcatSiamese,
    "trivial_distance_siamese": TrivialDistanceSiamese,
}


def get_extractor(model_name: str, **options: Any) -> IExtractor:
    """The network of that name; `extractor` is the section of one within it. Raises UnknownName."""
    return _model("extractor", model_name, EXTRACTORS_REGISTRY, options)


def get_extractor_by_cfg(cfg: Mapping[str, Any]) -> IExtractor:
    """The network of a section."""
    return get_extractor(cfg["name"], **options_of(cfg))


def get_pairwise_model(model_name: str, **options: Any) -> IPairwiseModel:
    """The pairwise network of that name; `extractor` is the section of the network within it. Raises UnknownName."""
    return _model("pairwise model", model_name, PAIRWISE_MODELS_REGISTRY, options)


def get_pairwise_model_by_cfg(cfg: Mapping[str, Any]) -> IPairwiseModel:
    """The pairwise network of a section."""
    return get_pairwise_model(cfg["name"], **options_of(cfg))


def _model(kind: str, name: str, table: Mapping[str, type[nn.Module]], options: dict[str, Any]) -> nn.Module:
    if "extractor" in options:
        section = options["extractor"]
        if options_of(section).get("weights") and options.get("weights"):
            raise InputError(f"{name} has weights, and so has its extractor, over which they would be written")
        options["extractor"] = get_extractor_by_cfg(section)
    return entry(kind, name, table)(**options)


__all__ = [
    "EXTRACTORS_REGISTRY",
    "PAIRWISE_MODELS_REGISTRY",
    "get_extractor",
    "get_extractor_by_cfg",
    "get_pairwise_model",
    "get_pairwise_model_by_cfg",
]
