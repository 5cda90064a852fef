"""The samples of each batch that one rank loads."""

from collections.abc import Iterator

from core.errors import InputError
from core.text import counted
from data.samplers._batches import BatchSampler, Sample


class RankBatch(list):
    """The samples of a batch from `start` to `stop`, which are one rank's; `batch` are those of all ranks.

    Whoever has to replace a label that cannot be read looks at the whole batch, since ranks have to agree on it.
    """

    def __init__(self, batch: list[Sample], start: int, stop: int):
        super().__init__(batch[start:stop])
        self.batch = batch
        self.start = start


class RankBatches:
    """What one of `world_size` ranks loads of every batch: of B samples those from B rank // world_size on.

    Raises InputError for batches of fewer images than there are ranks.
    """

    def __init__(self, batches: BatchSampler, rank: int, world_size: int):
        if batches.batch_size < world_size:
            raise InputError(
                f"train_batch_size {batches.batch_size} leaves some of {counted(world_size, 'rank')} without an image"
            )
        self.batches = batches
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Steps of one epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[RankBatch]:
        for batch in self.batches:
            start = len(batch) * self.rank // self.world_size
            stop = len(batch) * (self.rank + 1) // self.world_size
            yield RankBatch(batch, start, stop)
