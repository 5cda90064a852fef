"""Batches of all images in order, for tests."""

import numpy as np

from data.samplers._batches import Sample


class InOrder:
    """Batches (lists of Draw) over 0 … count-1 in order, the last one short: what evaluation loads.

    Made when they are asked for, so that a million images take no memory here. Rank r of R has every R-th, from
    the r-th on: whole batches as one rank would make them, so that no embedding depends on R.
    """

    def __init__(self, count, batch_size, rank=0, ranks=1):
        self.count, self.batch_size = count, batch_size
        self.batches = range(rank, -(-count // batch_size), ranks)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return ([Sample(i, 0) for i in self._indices(batch)] for batch in self.batches)

    def rows(self):
        """Indices of all images that it deals, (n,) int64, rising."""
        return np.concatenate([np.zeros(0, np.int64), *map(self._indices, self.batches)])

    def _indices(self, batch):
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.count))
