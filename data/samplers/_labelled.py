"""What samplers that choose by label share."""

import numpy as np

from data.samplers._batches import BatchSampler


class LabelledSampler(BatchSampler):
    """Common to the samplers that draw by label: the indices of each label, side by side in one array."""

    def __init__(self, labels, batch_size, seed, start_step):
        super().__init__(batch_size, seed, start_step)
        labels = np.asarray(labels)
        self.by_label = np.argsort(labels, kind="stable")
        _, self.codes, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.starts = np.cumsum(self.counts) - self.counts
