"""OML's names of samplers."""

from collections.abc import Mapping
from typing import Any

from compat.oml._tables import entry, known_options, options_of
from compat.oml.interfaces.samplers import IBatchSampler
from compat.oml.samplers import BalanceSampler, CategoryBalanceSampler, DistinctCategoryBalanceSampler

SAMPLERS_CATEGORIES_BASED = {
    "category_balance": CategoryBalanceSampler,
    "distinct_category_balance": DistinctCategoryBalanceSampler,
}
SAMPLERS_REGISTRY = {**SAMPLERS_CATEGORIES_BASED, "balance": BalanceSampler}


def get_sampler(name: str, **options: Any) -> IBatchSampler:
    """The sampler of that name; options that it does not take are left out. Raises UnknownName."""
    sampler = entry("sampler", name, SAMPLERS_REGISTRY)
    return sampler(**known_options(sampler, options))


def get_sampler_by_cfg(cfg: Mapping[str, Any], **further: Any) -> IBatchSampler:
    """The sampler of a section."""
    return get_sampler(cfg["name"], **options_of(cfg, further))


__all__ = ["SAMPLERS_CATEGORIES_BASED", "SAMPLERS_REGISTRY", "get_sampler", "get_sampler_by_cfg"]
