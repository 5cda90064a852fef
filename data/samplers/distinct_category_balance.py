"""Batches of some categories whose labels are used up before any comes again (OML's sampler of this name)."""

import numpy as np

from core.types import Positive
from data.samplers._batches import SAMPLERS, BatchSampler
from data.samplers._checks import (
    as_categories,
    labels_of_category,
    refuse_short_categories,
    refuse_single_labels,
    refuse_singletons,
)
from data.samplers._draws import draw_of_labels
from data.vocabulary import Vocabulary


@SAMPLERS.register("distinct_category_balance")
class DistinctCategoryBalanceSampler(BatchSampler):
    """As category_balance, but categories are drawn all alike, and of each the labels not used yet come first.

    A category whose labels are used up is drawn no more; where its last ones are too few for a batch, used ones fill it
    up. When fewer categories are left than a batch holds, all labels are unused again, as they are in a new epoch.

    categories: as category_balance has them.

    Options:
        n_categories: categories in a batch
        epoch_size: batches in an epoch (default: as many as hold each label once)
    """

    def __init__(
        self,
        labels: Vocabulary | np.ndarray,
        batch_size: int,
        samples_each_class: int,
        categories: Vocabulary | np.ndarray,
        n_categories: Positive = 2,
        epoch_size: Positive | None = None,
    ):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.n_categories = n_categories
        self.categories = as_categories(self.vocabulary, categories, n_categories)
        self.labels_each_category = labels_of_category(batch_size, samples_each_class, n_categories)
        refuse_single_labels(self.labels_each_category, n_categories)
        refuse_singletons(self.vocabulary)
        refuse_short_categories(self.categories, self.labels_each_category, "category_balance can repeat labels")
        if epoch_size is None:
            # Every category fills its share of a batch, so that there is one at least.
            epoch_size = len(self.vocabulary) // (n_categories * self.labels_each_category)
        self.steps = epoch_size

    def epoch(self, number: int) -> np.ndarray:
        rng = self._generator(number)
        count = self.labels_each_category
        unused: dict[int, np.ndarray] = {}
        used: dict[int, np.ndarray] = {}
        batches = []
        for _ in range(self.steps):
            if len(unused) < self.n_categories:
                unused = {category: self.categories.rows_of(category) for category in range(len(self.categories))}
                used = {category: np.zeros(0, np.int64) for category in unused}
            codes = []
            for category in rng.choice(list(unused), self.n_categories, replace=False).tolist():
                order = rng.permutation(unused[category])
                fresh = order[:count]
                again = rng.choice(used[category], count - len(fresh), replace=False)
                codes += [fresh, again]
                used[category] = np.concatenate([used[category], fresh])
                unused[category] = order[count:]
                if not len(unused[category]):
                    del unused[category]
            batches.append(draw_of_labels(rng, self.vocabulary, np.concatenate(codes), self.samples_each_class))
        return np.stack(batches)
