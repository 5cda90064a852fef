"""Batches of labels in equal numbers, each of which has two images or more (OML's BalanceSampler)."""

import numpy as np

from data.samplers._batches import SAMPLERS, BatchSampler
from data.samplers._checks import labels_of_batch, refuse_few_labels, refuse_singletons
from data.samplers._draws import draw_of_labels
from data.vocabulary import Vocabulary


@SAMPLERS.register("balance")
class BalanceSampler(BatchSampler):
    """`samples_each_class` images of each of batch_size / samples_each_class labels, each label at most once an epoch.

    As pk, but a label with a single image is refused, and of a label with fewer images than asked for all come once and
    the rest are drawn from all of them, with repetition (after Hermans et al., 2017, arXiv 1703.07737).
    """

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int, samples_each_class: int):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.labels_in_batch = labels_of_batch(batch_size, samples_each_class)
        refuse_few_labels(self.vocabulary, batch_size, samples_each_class, self.labels_in_batch)
        refuse_singletons(self.vocabulary)
        self.steps = len(self.vocabulary) // self.labels_in_batch

    def epoch(self, number: int) -> np.ndarray:
        rng = self._generator(number)
        # Labels that fill no batch are left to other epochs.
        codes = rng.permutation(len(self.vocabulary))[: self.steps * self.labels_in_batch]
        rows = draw_of_labels(rng, self.vocabulary, codes, self.samples_each_class)
        return rows.reshape(self.steps, self.batch_size)
