"""OML's samplers: the batches of an epoch, as numbers of items."""

from compat.oml.samplers.balance import BalanceSampler
from compat.oml.samplers.category_balance import CategoryBalanceSampler
from compat.oml.samplers.distinct_category_balance import DistinctCategoryBalanceSampler

__all__ = ["BalanceSampler", "CategoryBalanceSampler", "DistinctCategoryBalanceSampler"]
