"""Batches of images in random order."""

from core.errors import InputError
from data.samplers._batches import SAMPLERS, BatchSampler


@SAMPLERS.register("shuffled")
class ShuffledSampler(BatchSampler):
    """Every image once an epoch in random order; the remainder that fills no batch is left to other epochs."""

    def __init__(self, labels, batch_size, seed=0, start_step=0):
        super().__init__(batch_size, seed, start_step)
        self.images = len(labels)
        self.steps = self.images // batch_size
        if not self.steps:
            raise InputError(f"train_batch_size is {batch_size}, but the train list has only {self.images} images")

    def epoch(self, number):
        order = self._generator(number).permutation(self.images)
        return order[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)
