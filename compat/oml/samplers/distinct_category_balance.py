"""Batches of some categories whose labels are used up before any comes again."""

from collections.abc import Mapping

from compat.oml.samplers._epochs import EpochsByOurs, Labels, categories_of, check_category_sizes
from data.samplers.distinct_category_balance import DistinctCategoryBalanceSampler as ByUnusedLabels
from data.vocabulary import Vocabulary


class DistinctCategoryBalanceSampler(EpochsByOurs):
    """As CategoryBalanceSampler, of which a label comes again when those of its category are used up.

    epoch_size: batches of an epoch; None: as many as hold each label once.
    """

    def __init__(
        self,
        labels: Labels,
        label2category: Mapping[int, str | int],
        n_categories: int = 1,
        n_labels: int = 2,
        n_instances: int = 2,
        epoch_size: int | None = None,
    ) -> None:
        vocabulary = Vocabulary.of(labels)
        categories = categories_of(vocabulary, label2category)
        check_category_sizes(vocabulary, categories, n_categories, n_labels, n_instances)
        self.n_categories = n_categories
        self.n_labels = n_labels
        self.n_instances = n_instances
        self.sampler = ByUnusedLabels(
            vocabulary,
            n_categories * n_labels * n_instances,
            n_instances,
            categories,
            n_categories=n_categories,
            epoch_size=epoch_size,
        )


__all__ = ["DistinctCategoryBalanceSampler"]
