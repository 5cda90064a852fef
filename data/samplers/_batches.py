"""What every sampler hands out, and the table of samplers."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from core.registry import Registry
from data.vocabulary import Vocabulary

SAMPLERS = Registry("sampler")


class Sample(NamedTuple):
    """One image to load: its index in the list and the seed of its augmentation."""

    index: int
    seed: int


class BatchSampler:
    """Yields batches (lists of Sample) without end, from `start_step` on.

    An epoch is the (steps, batch_size) table of indices that `epoch(number)` returns, a pure function of the seed and
    the number; so step s always holds the same samples, whatever the number of loader workers and wherever a run was
    interrupted. A sampler sets `steps`, those of one epoch.

    labels: the vocabulary of a list, or labels (N,) that one is made of.
    singletons: how it uses the image of a label that has no other, where that is not as for any other label; the end of
    a sentence about such labels.
    """

    singletons: str | None = None
    steps: int

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int, seed: int = 0, start_step: int = 0):
        if not isinstance(labels, Vocabulary):
            labels = Vocabulary.of(labels)
        self.vocabulary = labels
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step

    def epoch(self, number: int) -> np.ndarray:
        """Indices of epoch `number`, an int array (steps, batch_size)."""
        raise TypeError(f"{type(self).__name__} has no epoch()")

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self.steps

    def _generator(self, number: int) -> np.random.Generator:
        """The random numbers of epoch `number`."""
        return np.random.default_rng([self.seed, number])

    def __iter__(self) -> Iterator[list[Sample]]:
        step = self.start_step
        while True:
            table = self.epoch(step // self.steps)
            for indices in table[step % self.steps :]:
                # The 1 keeps augmentations apart from the order of an epoch, whose generator has two numbers.
                seeds = np.random.SeedSequence([self.seed, step, 1]).generate_state(len(indices), np.uint32)
                yield [Sample(int(index), int(seed)) for index, seed in zip(indices, seeds)]
                step += 1
