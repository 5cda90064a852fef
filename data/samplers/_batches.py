"""What every sampler hands out, and the table of samplers."""

from typing import NamedTuple

import numpy as np

from core.registry import Registry

SAMPLERS = Registry("sampler")


class Sample(NamedTuple):
    """One image to load: its index in the list and the seed of its augmentation."""

    index: int
    seed: int


class BatchSampler:
    """Yields batches (lists of Draw) without end, from `start_step` on.

    An epoch is the (steps, batch_size) table of indices that `epoch(number)` returns, a pure function of the seed and
    the number; so step s always holds the same draws, whatever the number of loader workers and wherever a run was
    interrupted.
    """

    lone = None  # what becomes of labels with a single image, where that is not as it should be

    def __init__(self, batch_size, seed=0, start_step=0):
        self.batch_size, self.seed, self.start_step = batch_size, seed, start_step

    def epoch(self, number):
        """Indices of epoch `number`, an int array (steps, batch_size)."""
        raise TypeError(f"{type(self).__name__} has no epoch()")

    def __len__(self):
        """Steps of one epoch."""
        return self.steps

    def _generator(self, number):
        return np.random.default_rng([self.seed, number])

    def __iter__(self):
        step = self.start_step
        while True:
            table = self.epoch(step // self.steps)
            for indices in table[step % self.steps :]:
                seeds = np.random.SeedSequence([self.seed, step, 1]).generate_state(len(indices), np.uint32)
                yield [Sample(int(index), int(seed)) for index, seed in zip(indices, seeds)]
                step += 1
