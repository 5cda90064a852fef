"""Batches of P labels with K images each, out of a few categories (the hierarchical sampler)."""

import itertools
import math

import numpy as np

from core.errors import InputError
from core.types import Positive
from core.text import counted
from data.samplers._batches import SAMPLERS, SteppedSampler
from data.samplers._checks import as_categories, labels_of_category, refuse_few_labels
from data.samplers._draws import ITS_OWN_POSITIVE, draw_rounds
from data.vocabulary import Vocabulary

MOST_COMBINATIONS = 10**6


@SAMPLERS.register("category_pk")
class CategoryPKSampler(SteppedSampler):
    """As pk, but a batch's labels are of `n_categories` categories, in equal numbers, so that negatives are hard ones.

    An epoch has `batches_each` batches of every combination of categories, in random order (Cakir et al., CVPR 2019,
    section 4; Ramzi et al., ROADMAP, 2021, arXiv 2110.01445, with 2 categories and 10 batches of each pair). A label
    comes once in a batch. Where a category has too few labels, further ones of the batch's other categories take the
    places, and where these are used up, those of categories at random, one after the other.

    categories: the vocabulary of the labels' categories, or those of the labels (C,), in the order of the vocabulary.

    Options:
        n_categories: categories in a batch
        batches_each: batches of each combination of categories in an epoch
    """

    singletons = ITS_OWN_POSITIVE

    def __init__(
        self,
        labels: Vocabulary | np.ndarray,
        batch_size: int,
        samples_each_class: int,
        categories: Vocabulary | np.ndarray,
        n_categories: Positive = 2,
        batches_each: Positive = 10,
    ):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.batches_each = batches_each
        self.categories = as_categories(self.vocabulary, categories, n_categories)
        self.labels_each_category = labels_of_category(batch_size, samples_each_class, n_categories)
        self.labels_in_batch = n_categories * self.labels_each_category
        refuse_few_labels(self.vocabulary, batch_size, samples_each_class, self.labels_in_batch, n_categories)
        combinations = math.comb(len(self.categories), n_categories)
        if combinations > MOST_COMBINATIONS:
            raise InputError(
                f"{n_categories} of {counted(len(self.categories), 'category')} can be combined in {combinations:,} "
                f"ways, more than the {MOST_COMBINATIONS:,} that an epoch goes through; take a smaller n_categories"
            )
        self.combinations = np.array(list(itertools.combinations(range(len(self.categories)), n_categories)))
        self.steps = batches_each * combinations

    def batch(self, number: int, position: int) -> np.ndarray:
        order = self._generator(number).permutation(self.steps)
        chosen = self.combinations[order[position] // self.batches_each]
        rng = self._batch_generator(number, position)
        codes = self._draw_labels(rng, chosen)
        return np.concatenate([draw_rounds(rng, self.vocabulary, code, self.samples_each_class) for code in codes])

    def _draw_labels(self, rng: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
        """The labels of a batch of the categories `chosen`, (labels_in_batch,) int64."""
        share = self.labels_each_category
        orders = [rng.permutation(self.categories.rows_of(category)) for category in chosen]
        codes = np.concatenate([order[:share] for order in orders])
        if len(codes) == self.labels_in_batch:
            return codes
        # Others take the places that a short category leaves.
        rest = [order[share:] for order in orders]
        others = np.setdiff1d(np.arange(len(self.categories)), chosen)
        further = [rng.permutation(self.categories.rows_of(category)) for category in rng.permutation(others)]
        return np.concatenate([codes, *rest, *further])[: self.labels_in_batch]
