"""Rows of a list, one by one: loaded and augmented as their modality does it."""

import numpy as np
import torch
from torch.utils.data import Dataset

from data.modality import Modality
from data.records import Records
from data.samplers._batches import Sample

# What a dataset gives of one row: the network's input, the code of its label, its index.
Loaded = tuple[torch.Tensor, np.int64, int]


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
        content = self.modality.load(self.records, sample.index)
        # Codes on the disk are of fewer bits.
        code = np.int64(self.codes[sample.index])
        return self.modality.augment(content, sample.seed), code, sample.index
