"""OML's names of losses, miners, samplers, networks, optimisers, schedules, post-processors and transforms."""

from compat.oml.registry.losses import LOSSES_REGISTRY, get_criterion, get_criterion_by_cfg
from compat.oml.registry.miners import MINERS_REGISTRY, get_miner, get_miner_by_cfg
from compat.oml.registry.models import (
    EXTRACTORS_REGISTRY,
    PAIRWISE_MODELS_REGISTRY,
    get_extractor,
    get_extractor_by_cfg,
    get_pairwise_model,
    get_pairwise_model_by_cfg,
)
from compat.oml.registry.optimizers import OPTIMIZERS_REGISTRY, get_optimizer, get_optimizer_by_cfg
from compat.oml.registry.postprocessors import (
    POSTPROCESSORS_REGISTRY,
    get_postprocessor,
    get_postprocessor_by_cfg,
)
from compat.oml.registry.samplers import SAMPLERS_REGISTRY, get_sampler, get_sampler_by_cfg
from compat.oml.registry.schedulers import SCHEDULERS_REGISTRY, get_scheduler, get_scheduler_by_cfg
from compat.oml.registry.transforms import (
    TRANSFORMS_REGISTRY,
    get_transforms,
    get_transforms_by_cfg,
    get_transforms_for_pretrained,
)

__all__ = [
    "EXTRACTORS_REGISTRY",
    "LOSSES_REGISTRY",
    "MINERS_REGISTRY",
    "OPTIMIZERS_REGISTRY",
    "PAIRWISE_MODELS_REGISTRY",
    "POSTPROCESSORS_REGISTRY",
    "SAMPLERS_REGISTRY",
    "SCHEDULERS_REGISTRY",
    "TRANSFORMS_REGISTRY",
    "get_criterion",
    "get_criterion_by_cfg",
    "get_extractor",
    "get_extractor_by_cfg",
    "get_miner",
    "get_miner_by_cfg",
    "get_optimizer",
    "get_optimizer_by_cfg",
    "get_pairwise_model",
    "get_pairwise_model_by_cfg",
    "get_postprocessor",
    "get_postprocessor_by_cfg",
    "get_sampler",
    "get_sampler_by_cfg",
    "get_scheduler",
    "get_scheduler_by_cfg",
    "get_transforms",
    "get_transforms_by_cfg",
    "get_transforms_for_pretrained",
    "show_registry",
]


def show_registry() -> None:
    """Print every name and its class."""
    tables = {
        "Losses": LOSSES_REGISTRY,
        "Miners": MINERS_REGISTRY,
        "Samplers": SAMPLERS_REGISTRY,
        "Models": EXTRACTORS_REGISTRY,
        "Pairwise models": PAIRWISE_MODELS_REGISTRY,
        "Postprocessors": POSTPROCESSORS_REGISTRY,
        "Optimizers": OPTIMIZERS_REGISTRY,
        "Schedulers": SCHEDULERS_REGISTRY,
        "Transforms": TRANSFORMS_REGISTRY,
    }
    for title, table in tables.items():
        print(f"{title}:")
        for name, made in table.items():
            print(f"    {name}: {made.__name__}")
