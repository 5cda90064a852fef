"""Batches of all images in order, for tests."""

from collections.abc import Iterator

import numpy as np

from data.samplers._batches import Sample


class InOrder:
    """Batches (lists of Sample) over 0 … count-1 in order, the last one short: what evaluation loads.

    Made when they are asked for, so that a million images take no memory here. Rank r of `world_size` ranks has every
    `world_size`-th, from the r-th on: whole batches as one rank would make them, so that no embedding depends on the
    number of ranks.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.count = count
        self.batch_size = batch_size
        batches_of_all = -(-count // batch_size)  # rounded up
        self.batches = range(rank, batches_of_all, world_size)

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        for batch in self.batches:
            yield [Sample(index, 0) for index in self._indices(batch)]

    def rows(self) -> np.ndarray:
        """Indices of all images of this rank, (n,) int64, rising."""
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(self._indices(batch) for batch in self.batches)])

    def _indices(self, batch: int) -> range:
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.count))
