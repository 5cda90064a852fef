"""Batches of some categories, drawn anew for each (OML's CategoryBalanceSampler)."""

import numpy as np

from core.types import Positive
from data.samplers._batches import SAMPLERS, SteppedSampler
from data.samplers._checks import (
    as_categories,
    labels_of_category,
    refuse_few_labels,
    refuse_short_categories,
    refuse_single_labels,
    refuse_singletons,
)
from data.samplers._draws import draw, draw_of_labels
from data.vocabulary import Vocabulary


@SAMPLERS.register("category_balance")
class CategoryBalanceSampler(SteppedSampler):
    """`n_categories` categories a batch, labels of each in equal numbers, `samples_each_class` images of each label.

    A batch is independent of those before it; an epoch has as many as would go through all labels by those of one
    category. Labels are drawn without repetition within a batch, images as in balance.

    categories: the vocabulary of the labels' categories, or those of the labels (C,), in the order of the vocabulary.

    Options:
        n_categories: categories in a batch
        resample_labels: where a category has too few labels, let some of them come more than once in a batch
        weight_categories: draw a category by the number of its labels; False: all alike
    """

    def __init__(
        self,
        labels: Vocabulary | np.ndarray,
        batch_size: int,
        samples_each_class: int,
        categories: Vocabulary | np.ndarray,
        n_categories: Positive = 2,
        resample_labels: bool = False,
        weight_categories: bool = True,
    ):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.n_categories = n_categories
        self.categories = as_categories(self.vocabulary, categories, n_categories)
        self.labels_each_category = labels_of_category(batch_size, samples_each_class, n_categories)
        refuse_single_labels(self.labels_each_category, n_categories)
        # Within a category, since that is as far as labels that may come again have to reach.
        refuse_few_labels(self.vocabulary, batch_size, samples_each_class, self.labels_each_category)
        refuse_singletons(self.vocabulary)
        if not resample_labels:
            advice = "--resample_labels=True lets labels come more than once"
            refuse_short_categories(self.categories, self.labels_each_category, advice)
        self.weights = None
        if weight_categories:
            self.weights = self.categories.counts / len(self.vocabulary)
        self.steps = -(-len(self.vocabulary) // self.labels_each_category)  # rounded up

    def batch(self, number: int, position: int) -> np.ndarray:
        rng = self._batch_generator(number, position)
        chosen = rng.choice(len(self.categories), self.n_categories, replace=False, p=self.weights)
        codes = [draw(rng, self.categories.rows_of(category), self.labels_each_category) for category in chosen]
        return draw_of_labels(rng, self.vocabulary, np.concatenate(codes), self.samples_each_class)
