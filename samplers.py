"""What enters a batch: shuffled, pk (P labels with K samples each) or triplets; every batch follows from the seed."""

from typing import NamedTuple

import numpy as np

from errors import InputError
from registry import Registry

SAMPLERS = Registry("sampler")


class Draw(NamedTuple):
    """One image to load: its index in the list and the seed of its augmentation."""

    index: int
    seed: int


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
        return ([Draw(i, 0) for i in self._indices(batch)] for batch in self.batches)

    def rows(self):
        """Indices of all images that it deals, (n,) int64, rising."""
        return np.concatenate([np.zeros(0, np.int64), *map(self._indices, self.batches)])

    def _indices(self, batch):
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.count))


class BatchSampler:
    """Yields batches (lists of Draw) without end, from `start_step` on.

    An epoch is the (steps, batch_size) table of indices that `epoch(number)` returns, a pure function of the seed and
    the number; so step s always holds the same draws, whatever the number of loader workers and wherever a run was
    interrupted.
    """

    lone = None  # what becomes of labels with a single image, where that is not as it should be

    def __init__(self, batch_size, seed=0, start_step=0):
        self.batch_size, self.seed, self.start_step = batch_size, seed, start_step

    def epoch(self, number):
        """Indices of epoch `number`, an int array (steps, batch_size)."""
        raise TypeError(f"{type(self).__name__} has no epoch()")

    def __len__(self):
        """Steps of one epoch."""
        return self.steps

    def _generator(self, number):
        return np.random.default_rng([self.seed, number])

    def __iter__(self):
        step = self.start_step
        while True:
            table = self.epoch(step // self.steps)
            for indices in table[step % self.steps :]:
                seeds = np.random.SeedSequence([self.seed, step, 1]).generate_state(len(indices), np.uint32)
                yield [Draw(int(index), int(seed)) for index, seed in zip(indices, seeds)]
                step += 1


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


@SAMPLERS.register("shuffled")
class ShuffledSampler(BatchSampler):
    """Every image once an epoch in random order; the remainder that fills no batch is left to other epochs."""

    def __init__(self, labels, batch_size, seed=0, start_step=0):
        super().__init__(batch_size, seed, start_step)
        self.images = len(labels)
        self.steps = self.images // batch_size
        if not self.steps:
            raise InputError(f"train_batch_size is {batch_size}, but the train list has only {self.images} images")

    def epoch(self, number):
        order = self._generator(number).permutation(self.images)
        return order[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)


class _LabelledSampler(BatchSampler):
    """Common to the samplers that draw by label: the indices of each label, side by side in one array."""

    def __init__(self, labels, batch_size, seed, start_step):
        super().__init__(batch_size, seed, start_step)
        labels = np.asarray(labels)
        self.by_label = np.argsort(labels, kind="stable")
        _, self.codes, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.starts = np.cumsum(self.counts) - self.counts


@SAMPLERS.register("pk")
class PKSampler(_LabelledSampler):
    """Exactly `samples_each_class` images of each of batch_size / samples_each_class labels, a label's rows adjacent.

    A label comes at most once an epoch. Its images are drawn without repetition as far as they reach; a shorter label
    gives all of its images before any comes twice.
    """

    lone = "it comes more than once in a batch and is its own positive"

    def __init__(self, labels, batch_size, samples_each_class=2, seed=0, start_step=0):
        super().__init__(labels, batch_size, seed, start_step)
        if samples_each_class < 2:
            raise InputError(f"samples_each_class is {samples_each_class}, but a pair needs at least 2")
        if batch_size % samples_each_class:
            raise InputError(
                f"train_batch_size {batch_size} is not divisible by samples_each_class {samples_each_class}"
            )
        self.samples = samples_each_class
        self.labels_in_batch = batch_size // samples_each_class
        if self.labels_in_batch < 2:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds one label only, "
                "but a negative needs a second one"
            )
        self.steps = len(self.counts) // self.labels_in_batch
        if not self.steps:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} needs "
                f"{self.labels_in_batch} labels, but the train list has {len(self.counts)}"
            )

    def epoch(self, number):
        rng = self._generator(number)
        labels = rng.permutation(len(self.counts))[: self.steps * self.labels_in_batch]
        rows = [self._draw(rng, label) for label in labels]
        return np.concatenate(rows).reshape(self.steps, self.batch_size)

    def _draw(self, rng, label):
        count = self.counts[label]
        rounds = -(-self.samples // count)
        picks = np.concatenate([rng.permutation(count) for _ in range(rounds)])[: self.samples]
        return self.by_label[self.starts[label] + picks]


@SAMPLERS.register("triplet")
class TripletSampler(_LabelledSampler):
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
