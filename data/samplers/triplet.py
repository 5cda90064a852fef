"""Batches of triplets."""

import numpy as np

from core.errors import InputError
from data.samplers._batches import SAMPLERS
from data.samplers._labelled import LabelledSampler


@SAMPLERS.register("triplet")
class TripletSampler(LabelledSampler):
    """Rows anchor, positive, negative, anchor, …: every image that has a positive is an anchor once an epoch.

    Positive (another image of the label) and negative (an image of another label) are drawn uniformly, unmined, as in
    PaddlePaddle's metric_learning reader.
    """

    lone = "it is a negative only, never an anchor or a positive"

    def __init__(self, labels, batch_size, seed=0, start_step=0):
        super().__init__(labels, batch_size, seed, start_step)
        if batch_size % 3:
            raise InputError(f"train_batch_size {batch_size} is not divisible by 3 (anchor, positive, negative)")
        self.anchors = np.flatnonzero(self.counts[self.codes] > 1)
        if len(self.counts) < 2:
            raise InputError("triplets need at least 2 labels, but the train list has 1")
        self.steps = len(self.anchors) * 3 // batch_size
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} needs {batch_size // 3} anchors, "
                f"but only {len(self.anchors)} images of the train list share their label with another"
            )
        self.rank = np.empty(len(self.codes), dtype=np.int64)
        self.rank[self.by_label] = np.arange(len(self.codes))

    def epoch(self, number):
        rng = self._generator(number)
        anchors = rng.permutation(self.anchors)[: self.steps * (self.batch_size // 3)]
        labels = self.codes[anchors]
        start, count = self.starts[labels], self.counts[labels]
        own = self.rank[anchors] - start
        positives = start + (own + rng.integers(1, count)) % count
        outside = rng.integers(0, len(self.codes) - count)
        negatives = np.where(outside < start, outside, outside + count)
        rows = np.stack([anchors, self.by_label[positives], self.by_label[negatives]], axis=1)
        return rows.reshape(self.steps, self.batch_size)
