"""Batches of P labels with K images each."""

import numpy as np

from core.errors import InputError
from data.samplers._batches import SAMPLERS
from data.samplers._labelled import LabelledSampler


@SAMPLERS.register("pk")
class PKSampler(LabelledSampler):
    """Exactly `samples_each_class` images of each of batch_size / samples_each_class labels, a label's rows adjacent.

    A label comes at most once an epoch. Its images are drawn without repetition as far as they reach; a shorter label
    gives all of its images before any comes twice.
    """

    lone = "it comes more than once in a batch and is its own positive"

    def __init__(self, labels, batch_size, samples_each_class=2, seed=0, start_step=0):
        super().__init__(labels, batch_size, seed, start_step)
        if samples_each_class < 2:
            raise InputError(f"samples_each_class is {samples_each_class}, but a pair needs at least 2")
        if batch_size % samples_each_class:
            raise InputError(
                f"train_batch_size {batch_size} is not divisible by samples_each_class {samples_each_class}"
            )
        self.samples = samples_each_class
        self.labels_in_batch = batch_size // samples_each_class
        if self.labels_in_batch < 2:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds one label only, "
                "but a negative needs a second one"
            )
        self.steps = len(self.counts) // self.labels_in_batch
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} needs "
                f"{self.labels_in_batch} labels, but the train list has {len(self.counts)}"
            )

    def epoch(self, number):
        rng = self._generator(number)
        labels = rng.permutation(len(self.counts))[: self.steps * self.labels_in_batch]
        rows = [self._draw(rng, label) for label in labels]
        return np.concatenate(rows).reshape(self.steps, self.batch_size)

    def _draw(self, rng, label):
        count = self.counts[label]
        rounds = -(-self.samples // count)
        picks = np.concatenate([rng.permutation(count) for _ in range(rounds)])[: self.samples]
        return self.by_label[self.starts[label] + picks]
