"""Batches of triplets."""

import numpy as np

from core.errors import InputError
from core.text import counted
from data.samplers._batches import SAMPLERS, BatchSampler
from data.samplers._checks import fitting
from data.vocabulary import Vocabulary


@SAMPLERS.register("triplet")
class TripletSampler(BatchSampler):
    """Rows anchor, positive, negative, anchor, …: every image that has a positive is an anchor once an epoch.

    Positive (another image of the label) and negative (an image of another label) are drawn uniformly, unmined, as in
    PaddlePaddle's metric_learning reader.
    """

    singletons = "it is a negative only, never an anchor or a positive"

    def __init__(self, labels: Vocabulary | np.ndarray, batch_size: int):
        super().__init__(labels, batch_size)
        if batch_size % 3:
            raise InputError(
                f"train_batch_size {batch_size} is not divisible by 3 (anchor, positive, negative)"
                f"{fitting(max(batch_size, 3), 3, 3)}"
            )
        codes, counts = self.vocabulary.codes, self.vocabulary.counts
        self.anchors = np.flatnonzero(counts[codes] > 1)
        if len(counts) < 2:
            raise InputError("triplets need at least 2 labels, but the train list has 1")
        self.steps = len(self.anchors) * 3 // batch_size
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} needs {counted(batch_size // 3, 'anchor')}, "
                f"but only {counted(len(self.anchors), 'image')} of the train list share their label with another"
                f"{fitting(3 * len(self.anchors), 3, 3)}"
            )
        # Where each image stands in `vocabulary.rows`, in which those of a label are side by side.
        self.positions = np.empty(len(codes), dtype=np.int64)
        self.positions[self.vocabulary.rows] = np.arange(len(codes))

    def epoch(self, number: int) -> np.ndarray:
        rng = self._generator(number)
        rows = self.vocabulary.rows
        anchors = rng.permutation(self.anchors)[: self.steps * (self.batch_size // 3)]
        codes = self.vocabulary.codes[anchors]
        start, count = self.vocabulary.starts[codes], self.vocabulary.counts[codes]
        # From the anchor some images on, round within its label, and never as far as itself.
        offset = self.positions[anchors] - start
        positives = start + (offset + rng.integers(1, count)) % count
        # One of the images outside of the label: those behind it are counted as if it were not there.
        outside = rng.integers(0, len(rows) - count)
        negatives = np.where(outside < start, outside, outside + count)
        triplets = np.stack([anchors, rows[positives], rows[negatives]], axis=1)
        return triplets.reshape(self.steps, self.batch_size)
