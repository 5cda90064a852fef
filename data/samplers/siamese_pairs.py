"""Batches of pairs, half of them of one label."""

import numpy as np

from core.errors import InputError
from core.text import counted
from data.samplers._batches import SAMPLERS, BatchSampler
from data.samplers._checks import fitting
from data.vocabulary import Vocabulary


@SAMPLERS.register("siamese_pairs")
class SiamesePairsSampler(BatchSampler):
    """Rows image, partner, image, partner, …: every image is the first of a pair once an epoch.

    With a chance of one half its partner is another image of its label, else an image of another label, which is drawn
    first, and then one of its images: a label is as often another's partner as any other, however many images it has.
    """

    has_pairs = False  # where a coin falls on one side for the whole batch
    singletons = "it has no partner of its label, so its pairs are all of two labels"

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int):
        super().__init__(labels, batch_size)
        if batch_size % 2:
            raise InputError(
                f"train_batch_size {batch_size} is not divisible by 2 (an image and its partner); "
                f"--train_batch_size={batch_size + 1} is"
            )
        counts = self.vocabulary.counts
        if len(counts) < 2:
            raise InputError("pairs of different labels need at least 2 labels, but the list has 1")
        if counts.max() < 2:
            raise InputError("pairs of one label need a label with at least 2 images, but the list has none")
        images = len(self.vocabulary.codes)
        self.steps = images * 2 // batch_size
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} needs {counted(batch_size // 2, 'image')}, but the list has {images}"
                f"{fitting(2 * images, 2, 2)}"
            )
        # Where each image stands in `vocabulary.rows`, in which those of a label are side by side.
        self.positions = np.empty(images, dtype=np.int64)
        self.positions[self.vocabulary.rows] = np.arange(images)

    def epoch(self, number: int) -> np.ndarray:
        rng = self._generator(number)
        images = rng.permutation(len(self.vocabulary.codes))[: self.steps * (self.batch_size // 2)]
        pairs = np.stack([images, self.partners(images, rng)], axis=1)
        return pairs.reshape(self.steps, self.batch_size)

    def partners(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A partner for each of M images, (M,) int64."""
        codes = self.vocabulary.codes[images]
        starts, counts = self.vocabulary.starts, self.vocabulary.counts
        is_same = (rng.random(len(images)) < 0.5) & (counts[codes] > 1)
        # Some images on from the image itself, round within its label, and never as far as itself.
        offset = self.positions[images] - starts[codes]
        same = starts[codes] + (offset + rng.integers(1, np.maximum(counts[codes], 2))) % counts[codes]
        # Some labels on from its own, round within all of them, and never as far as its own.
        others = (codes + rng.integers(1, len(counts), len(codes))) % len(counts)
        different = starts[others] + rng.integers(0, counts[others])
        return self.vocabulary.rows[np.where(is_same, same, different)]
