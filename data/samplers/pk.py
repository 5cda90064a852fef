"""Batches of P labels with K images each."""

from collections.abc import Iterable

import numpy as np

from data.samplers._batches import SAMPLERS, BatchSampler, batch_generator
from data.samplers._checks import labels_of_batch, refuse_few_labels
from data.samplers._draws import ITS_OWN_POSITIVE, draw_rounds
from data.samplers._permutation import Permutation
from data.vocabulary import Vocabulary


@SAMPLERS.register("pk")
class PKSampler(BatchSampler):
    """Exactly `samples_each_class` images of each of batch_size / samples_each_class labels, a label's rows adjacent.

    A label comes at most once an epoch. Its images are drawn without repetition as far as they reach; a shorter label
    gives all of its images before any comes twice. Of a list that stays on the disk a batch is drawn when it is asked
    for.
    """

    singletons = ITS_OWN_POSITIVE

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int, samples_each_class: int):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.labels_in_batch = labels_of_batch(batch_size, samples_each_class)
        refuse_few_labels(self.vocabulary, batch_size, samples_each_class, self.labels_in_batch)
        self.steps = len(self.vocabulary) // self.labels_in_batch

    def epoch(self, number: int) -> np.ndarray:
        if self.vocabulary.is_stored:
            return np.stack(list(self._rest_of_epoch(number, 0)))
        rng = self._generator(number)
        # Labels that fill no batch are left to other epochs.
        codes = rng.permutation(len(self.vocabulary))[: self.steps * self.labels_in_batch]
        rows = [draw_rounds(rng, self.vocabulary, code, self.samples_each_class) for code in codes]
        return np.concatenate(rows).reshape(self.steps, self.batch_size)

    def _rest_of_epoch(self, number: int, position: int) -> Iterable[np.ndarray]:
        if not self.vocabulary.is_stored:
            return super()._rest_of_epoch(number, position)
        order = Permutation(len(self.vocabulary), self.seed, number)
        return (self._batch(order, number, step) for step in range(position, self.steps))

    def _batch(self, order: Permutation, number: int, position: int) -> np.ndarray:
        """The batch at `position` of an epoch whose labels come in that order."""
        rng = batch_generator(self.seed, number, position)
        start = position * self.labels_in_batch
        codes = order(slice(start, start + self.labels_in_batch))
        return np.concatenate([draw_rounds(rng, self.vocabulary, code, self.samples_each_class) for code in codes])
