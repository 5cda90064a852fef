"""OML's names of post-processors."""

from collections.abc import Mapping
from typing import Any

from compat.oml._tables import entry, options_of
from compat.oml.interfaces.retrieval import IRetrievalPostprocessor
from compat.oml.registry.models import get_pairwise_model_by_cfg
from compat.oml.retrieval import AdaptiveThresholding, ConstantThresholding, PairwiseReranker

POSTPROCESSORS_REGISTRY = {
    "pairwise_reranker": PairwiseReranker,
    "constant_thresholding": ConstantThresholding,
    "adaptive_thresholding": AdaptiveThresholding,
}


def get_postprocessor(name: str, **options: Any) -> IRetrievalPostprocessor:
    """The post-processor of that name; `pairwise_model` is the section of its network. Raises UnknownName."""
    if "pairwise_model" in options:
        options["pairwise_model"] = get_pairwise_model_by_cfg(options["pairwise_model"])
    return entry("postprocessor", name, POSTPROCESSORS_REGISTRY)(**options)


def get_postprocessor_by_cfg(cfg: Mapping[str, Any]) -> IRetrievalPostprocessor:
    """The post-processor of a section."""
    return get_postprocessor(cfg["name"], **options_of(cfg))


__all__ = ["POSTPROCESSORS_REGISTRY", "get_postprocessor", "get_postprocessor_by_cfg"]
