"""One rank's part of each batch."""

from core.errors import InputError


class Share(list):
    """The draws of a batch from `start` to `stop`, which are one rank's; `batch` are all of it."""

    def __init__(self, batch, start, stop):
        super().__init__(batch[start:stop])
        self.batch, self.start = batch, start


class Shard:
    """What rank r of R loads of every batch of `batches`: draws B r // R to B (r + 1) // R of its B.

    Raises InputError for batches of fewer than R images.
    """

    def __init__(self, batches, rank, ranks):
        if batches.batch_size < ranks:
            raise InputError(f"train_batch_size {batches.batch_size} leaves some of {ranks} ranks without an image")
        self.batches, self.rank, self.ranks = batches, rank, ranks

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            start, stop = (len(batch) * rank // self.ranks for rank in (self.rank, self.rank + 1))
            yield Share(batch, start, stop)
