"""Batches of some categories."""

from collections.abc import Mapping

from compat.oml.samplers._epochs import EpochsByOurs, Labels, categories_of, check_category_sizes
from data.samplers.category_balance import CategoryBalanceSampler as ByCategories
from data.vocabulary import Vocabulary


class CategoryBalanceSampler(EpochsByOurs):
    """n_categories categories a batch, n_labels labels of each, n_instances items of each label.

    Raises InputError, which is a ValueError, for batches that labels and categories cannot fill.
    """

    def __init__(
        self,
        labels: Labels,
        label2category: Mapping[int, str | int],
        n_categories: int = 1,
        n_labels: int = 2,
        n_instances: int = 2,
        resample_labels: bool = False,
        weight_categories: bool = True,
    ) -> None:
        vocabulary = Vocabulary.of(labels)
        categories = categories_of(vocabulary, label2category)
        check_category_sizes(vocabulary, categories, n_categories, n_labels, n_instances)
        self.n_categories = n_categories
        self.n_labels = n_labels
        self.n_instances = n_instances
        self.sampler = ByCategories(
            vocabulary,
            n_categories * n_labels * n_instances,
            n_instances,
            categories,
            n_categories=n_categories,
            resample_labels=resample_labels,
            weight_categories=weight_categories,
        )


__all__ = ["CategoryBalanceSampler"]
