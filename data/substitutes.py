"""What takes the place of rows that cannot be read in their batch: other rows, or nothing."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from core.errors import InputError
from data.dataset import Loaded, RecordDataset, at_a_time
from data.samplers import RankBatch, Sample

T = TypeVar("T")


class TryingDataset(RecordDataset):
    """As RecordDataset, for those that go on without what cannot be read; `broken` {index: sentence} is what is not."""

    def try_all(self, samples: Sequence[Sample], broken: dict[int, str]) -> list[Loaded | None]:
        """The rows of a batch; None where one cannot be read, and then `broken` says why."""
        rows = []
        for some in at_a_time(samples):
            begun = [_attempt(lambda sample=sample: self.begin(sample), sample.index, broken) for sample in some]
            for sample, finish in zip(some, begun, strict=True):
                rows.append(None if finish is None else _attempt(finish, sample.index, broken))
        return rows


def _attempt(step: Callable[[], T], index: int, broken: dict[int, str]) -> T | None:
    """What a step gives of the row `index`; None where it, or one before it, cannot read that."""
    if index in broken:
        return None
    try:
        return step()
    except InputError as error:
        broken[index] = str(error)
        return None


class SubstitutingDataset(TryingDataset):
    """As RecordDataset, but for a row that cannot be read another one is loaded.

    It is one of the same label, in an order that follows from the sample's seed; where none of these can be read, one
    of a label that is not in the batch, the same label for all of its samples. So a batch keeps its size, what belonged
    together still does, and all of it follows from the samples and the files, whoever loads it and on how many ranks.
    """

    def __getitems__(self, samples: list[Sample]) -> tuple[list[Loaded], dict[int, str]]:
        """(rows, {index: sentence} of what could not be read) of a batch, or of a RankBatch.

        Raises InputError if nothing is left.
        """
        broken = {}
        loaded = self.try_all(samples, broken)
        for position, sample in enumerate(samples):
            if loaded[position] is None:
                loaded[position] = self._load_any(int(self.codes[sample.index]), sample.seed, broken)
        if any(row is None for row in loaded):
            loaded = self._replace_labels(samples, loaded, broken)
        return loaded, broken

    def _replace_labels(
        self, samples: list[Sample], loaded: list[Loaded | None], broken: dict[int, str]
    ) -> list[Loaded]:
        """The rows of `samples`, in which labels of which nothing can be read are replaced.

        loaded: what was tried already. Of a RankBatch all is looked at, so that ranks agree on the labels.
        """
        batch = samples
        start = 0
        if isinstance(samples, RankBatch):
            batch = samples.batch
            start = samples.start
        stop = start + len(samples)
        taken = {int(self.codes[sample.index]) for sample in batch}
        substitutes = {}
        rows = []
        for position, sample in enumerate(batch):
            if start <= position < stop:
                row = loaded[position - start]
            else:
                row = self._load_of_label(sample, broken)
            if row is None:
                row = self._load_of_other_label(sample, substitutes, taken, broken)
            rows.append(row)
        return rows[start:stop]

    def _load_of_label(self, sample: Sample, broken: dict[int, str]) -> Loaded | None:
        """A sample's row, or another one of its label; None where nothing of that can be read."""
        (row,) = self.try_all([sample], broken)
        if row is None:
            row = self._load_any(int(self.codes[sample.index]), sample.seed, broken)
        return row

    def _load_of_other_label(
        self, sample: Sample, substitutes: dict[int, int], taken: set[int], broken: dict[int, str]
    ) -> Loaded:
        """A row of the label that stands in for the sample's, of which nothing can be read.

        substitutes: {code: the code that stands in for it}, `taken`: codes that are in the batch; both are added to.
        """
        code = int(self.codes[sample.index])
        if code in substitutes:
            candidates = [substitutes[code]]
        else:
            candidates = [other for other in self._codes_after(code) if other not in taken]
        for other in candidates:
            row = self._load_any(other, sample.seed, broken)
            if row is not None:
                substitutes[code] = other
                taken.add(other)
                return row
        raise InputError(f"{broken[sample.index]}; nor can another be taken, of its label or from outside the batch")

    def _codes_after(self, code: int) -> list[int]:
        """All other codes: those after it, then those before it."""
        count = len(self.records.vocabulary)
        return [*range(code + 1, count), *range(code)]

    def _load_any(self, code: int, seed: int, broken: dict[int, str]) -> Loaded | None:
        """The first row of a label that can be read, in an order that follows from the seed."""
        for index in np.random.default_rng(seed).permutation(self.records.vocabulary.rows_of(code)):
            (row,) = self.try_all([Sample(int(index), seed)], broken)
            if row is not None:
                return row
        return None


class DroppingDataset(TryingDataset):
    """As RecordDataset, but a row that cannot be read is missing from its batch."""

    def __getitems__(self, samples: list[Sample]) -> tuple[list[Loaded], dict[int, str]]:
        """(rows that can be read, {index: sentence} of the others)."""
        broken = {}
        rows = [row for row in self.try_all(samples, broken) if row is not None]
        return rows, broken
