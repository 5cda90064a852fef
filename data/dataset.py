"""Rows of a list, one by one: loaded and augmented as their modality does it."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data.modality import Modality
from data.records import Records
from data.samplers._batches import Sample

# What a dataset gives of one row: the network's input, the code of its label, its index.
Loaded = tuple[torch.Tensor, np.int64, int]

# Rows of a batch that are begun before the first of them is finished. What reads headers and draws numbers is many
# small pieces of code: each takes two to three times as long where a decoder has filled the processor's caches since.
AT_A_TIME = 16


class RecordDataset(Dataset):
    """Samples (index, seed) to (input, code of the label, index); the code is 0 where nobody knows the labels."""

    def __init__(self, records: Records, modality: Modality):
        self.records = records
        self.modality = modality
        if records.labels is None:
            self.codes = np.zeros(len(records), np.int64)
        else:
            self.codes = records.vocabulary.codes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> Loaded:
        return self.begin(sample)()

    def __getitems__(self, samples: Sequence[Sample]) -> list[Loaded]:
        """The rows of a batch."""
        rows = []
        for some in at_a_time(samples):
            begun = [self.begin(sample) for sample in some]
            rows += [finish() for finish in begun]
        return rows

    def begin(self, sample: Sample) -> Callable[[], Loaded]:
        """A row as Modality.begin has it: what comes back does the rest, and returns the row."""
        content = self.modality.load(self.records, sample.index)
        finish = self.modality.begin(content, sample.seed)
        # Codes on the disk are of fewer bits.
        code = np.int64(self.codes[sample.index])
        return lambda: (finish(), code, sample.index)


def at_a_time(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    """A batch, AT_A_TIME rows by AT_A_TIME."""
    for start in range(0, len(samples), AT_A_TIME):
        yield samples[start : start + AT_A_TIME]
