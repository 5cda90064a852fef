"""Batches of images in random order."""

from collections.abc import Iterable

import numpy as np

from core.errors import InputError
from core.text import counted
from data.samplers._batches import SAMPLERS, BatchSampler
from data.samplers._checks import fitting
from data.samplers._permutation import Permutation
from data.vocabulary import Vocabulary


@SAMPLERS.register("shuffled")
class ShuffledSampler(BatchSampler):
    """Every image once an epoch in random order; the remainder that fills no batch is left to other epochs.

    Of a list that stays on the disk the order is computed for each batch, and stands nowhere.
    """

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int):
        super().__init__(labels, batch_size)
        self.images = len(self.vocabulary.codes)
        self.steps = self.images // batch_size
        if not self.steps:
            raise InputError(
                f"train_batch_size is {batch_size}, but the train list has only {counted(self.images, 'image')}"
                f"{fitting(self.images, 1, 1)}"
            )
        # Only so many images cannot all be of different labels, nor all of one.
        self.has_pairs = batch_size > max(len(self.vocabulary), self.vocabulary.counts.max())

    def epoch(self, number: int) -> np.ndarray:
        if self.vocabulary.is_stored:
            return np.stack(list(self._rest_of_epoch(number, 0)))
        order = self._generator(number).permutation(self.images)
        return order[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)

    def _rest_of_epoch(self, number: int, position: int) -> Iterable[np.ndarray]:
        if not self.vocabulary.is_stored:
            return super()._rest_of_epoch(number, position)
        order = Permutation(self.images, self.seed, number)
        size = self.batch_size
        return (order(slice(step * size, (step + 1) * size)) for step in range(position, self.steps))
