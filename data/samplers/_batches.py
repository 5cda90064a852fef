"""What every sampler hands out, and the table of samplers."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from core.errors import InputError
from core.registry import Registry
from core.text import class_name, counted
from data.vocabulary import Vocabulary

# A sampler's options are its keywords with a default; the arguments without one are facts of the list and the flags:
# labels, batch_size, samples_each_class and categories, as far as it asks for them (`build_sampler`).
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
    seed, start_step: where the stream begins, which `starting` sets.
    singletons: how it uses the image of a label that has no other, where that is not as for any other label; the end of
    a sentence about such labels.
    has_pairs: whether every batch holds two images of a label, and two labels.
    """

    singletons: str | None = None
    has_pairs = True
    seed = 0
    start_step = 0
    steps: int

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int):
        if not isinstance(labels, Vocabulary):
            labels = Vocabulary.of(labels)
        self.vocabulary = labels
        self.batch_size = batch_size

    def starting(self, seed: int = 0, start_step: int = 0) -> "BatchSampler":
        """This sampler, with the batches of that seed from that step on."""
        self.seed = seed
        self.start_step = start_step
        return self

    def epoch(self, number: int) -> np.ndarray:
        """Indices of epoch `number`, an int array (steps, batch_size)."""
        raise TypeError(f"{type(self).__name__} has no epoch()")

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self.steps

    def _generator(self, number: int) -> np.random.Generator:
        """The random numbers of epoch `number`."""
        return np.random.default_rng([self.seed, number])

    def _rest_of_epoch(self, number: int, position: int) -> Iterable[np.ndarray]:
        """The batches of epoch `number` from the one at `position` on."""
        return self.epoch(number)[position:]

    def __iter__(self) -> Iterator[list[Sample]]:
        step = self.start_step
        while True:
            first = step
            for indices in self._rest_of_epoch(step // self.steps, step % self.steps):
                self._refuse_other_rows(indices)
                # The 1 keeps augmentations apart from the order of an epoch, whose generator has two numbers.
                seeds = np.random.SeedSequence([self.seed, step, 1]).generate_state(len(indices), np.uint32)
                yield [Sample(int(index), int(seed)) for index, seed in zip(indices, seeds)]
                step += 1
            if step == first:
                raise InputError(f"{self._place} gave no batch of epoch {step // self.steps}, which has {self.steps}")

    @property
    def _place(self) -> str:
        return class_name(type(self))

    def _refuse_other_rows(self, indices: np.ndarray) -> None:
        """Raise InputError, naming the sampler, unless these are a batch of numbers of rows of the list."""
        indices, rows = np.asarray(indices), len(self.vocabulary.codes)
        asked = f"a batch is {counted(self.batch_size, 'row')} of the train list, numbers from 0 to {rows - 1}"
        if indices.shape != (self.batch_size,) or indices.dtype.kind not in "iu":
            raise InputError(f"{self._place} gave a batch of {indices.dtype} {indices.shape}; {asked}")
        # A number below 0 would be a row counted from the end.
        low, high = indices.min(), indices.max()
        if low < 0 or high >= rows:
            raise InputError(f"{self._place} gave a batch with row {low if low < 0 else high}; {asked}")


class SteppedSampler(BatchSampler):
    """A BatchSampler whose batches are drawn when they are asked for, each from random numbers of its own.

    Its epochs may be long, or hang on something that changes in the middle of one.
    """

    def batch(self, number: int, position: int) -> np.ndarray:
        """Indices of the batch at `position` in epoch `number`, an int array (batch_size,)."""
        raise TypeError(f"{type(self).__name__} has no batch()")

    def epoch(self, number: int) -> np.ndarray:
        return np.stack(list(self._rest_of_epoch(number, 0)))

    def _rest_of_epoch(self, number: int, position: int) -> Iterable[np.ndarray]:
        return (self.batch(number, later) for later in range(position, self.steps))

    def _batch_generator(self, number: int, position: int) -> np.random.Generator:
        """The random numbers of one batch."""
        return batch_generator(self.seed, number, position)


def batch_generator(seed: int, number: int, position: int) -> np.random.Generator:
    """The random numbers of the batch at `position` in epoch `number`."""
    # The 2 keeps them apart from those of epochs and of augmentations, whose rows of numbers are shorter.
    return np.random.default_rng([seed, number, position, 2])
