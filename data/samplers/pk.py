"""Batches of P labels with K images each."""

import numpy as np

from core.errors import InputError
from data.samplers._batches import SAMPLERS, BatchSampler
from data.vocabulary import Vocabulary


@SAMPLERS.register("pk")
class PKSampler(BatchSampler):
    """Exactly `samples_each_class` images of each of batch_size / samples_each_class labels, a label's rows adjacent.

    A label comes at most once an epoch. Its images are drawn without repetition as far as they reach; a shorter label
    gives all of its images before any comes twice.
    """

    singletons = "it comes more than once in a batch and is its own positive"

    def __init__(
        self,
        labels: Vocabulary | np.ndarray,
        batch_size: int,
        samples_each_class: int = 2,
        seed: int = 0,
        start_step: int = 0,
    ):
        super().__init__(labels, batch_size, seed, start_step)
        if samples_each_class < 2:
            raise InputError(f"samples_each_class is {samples_each_class}, but a pair needs at least 2")
        if batch_size % samples_each_class:
            raise InputError(
                f"train_batch_size {batch_size} is not divisible by samples_each_class {samples_each_class}"
            )
        self.samples_each_class = samples_each_class
        self.labels_in_batch = batch_size // samples_each_class
        if self.labels_in_batch < 2:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds one label only, "
                "but a negative needs a second one"
            )
        self.steps = len(self.vocabulary) // self.labels_in_batch
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} needs "
                f"{self.labels_in_batch} labels, but the train list has {len(self.vocabulary)}"
            )

    def epoch(self, number: int) -> np.ndarray:
        rng = self._generator(number)
        # Labels that fill no batch are left to other epochs.
        codes = rng.permutation(len(self.vocabulary))[: self.steps * self.labels_in_batch]
        rows = [self._draw(rng, code) for code in codes]
        return np.concatenate(rows).reshape(self.steps, self.batch_size)

    def _draw(self, rng: np.random.Generator, code: int) -> np.ndarray:
        """Images of a label, (samples_each_class,) int64."""
        count = self.vocabulary.counts[code]
        # A label with fewer images than asked for is gone through again, in another order.
        rounds = -(-self.samples_each_class // count)  # rounded up
        picks = np.concatenate([rng.permutation(count) for _ in range(rounds)])[: self.samples_each_class]
        return self.vocabulary.rows_of(code)[picks]
