"""Batches of images in random order."""

import numpy as np

from core.errors import InputError
from data.samplers._batches import SAMPLERS, BatchSampler
from data.vocabulary import Vocabulary


@SAMPLERS.register("shuffled")
class ShuffledSampler(BatchSampler):
    """Every image once an epoch in random order; the remainder that fills no batch is left to other epochs."""

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int):
        super().__init__(labels, batch_size)
        self.images = len(self.vocabulary.codes)
        self.steps = self.images // batch_size
        if not self.steps:
            raise InputError(f"train_batch_size is {batch_size}, but the train list has only {self.images} images")
        # Only so many images cannot all be of different labels, nor all of one.
        self.has_pairs = batch_size > max(len(self.vocabulary), self.vocabulary.counts.max())

    def epoch(self, number: int) -> np.ndarray:
        order = self._generator(number).permutation(self.images)
        return order[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)
