"""Batches of all images in order, each once, with seeds: one augmented view of a whole list."""

from collections.abc import Iterator

import numpy as np

from data.samplers._batches import Sample


class EachOnce:
    """Batches (lists of Sample) over 0 … count-1 in order, as even as can be, of at most `batch_size` images.

    seed, view: what the seeds of augmentations follow from, beside the image.
    """

    def __init__(self, count: int, batch_size: int, seed: int, view: int):
        self.count = count
        self.batch_size = min(batch_size, count)
        self.steps = -(-count // batch_size)  # rounded up
        self.seeds = np.random.SeedSequence([seed, view, 2]).generate_state(count, np.uint32)

    def __len__(self) -> int:
        """How many batches there are."""
        return self.steps

    def __iter__(self) -> Iterator[list[Sample]]:
        for indices in np.array_split(np.arange(self.count), self.steps):
            yield [Sample(int(index), int(self.seeds[index])) for index in indices]
