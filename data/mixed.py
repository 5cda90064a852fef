"""Rows of several modalities in one list: batches are of one each, since networks differ."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from core.items import modality_of
from data.modality import Modality
from data.records import Records
from data.samplers import Sample


class MixedModality(Modality):
    """A Modality that does with each row as that of the row does; a batch is of rows of one."""

    def __init__(self, modalities: Mapping[str, Modality]):
        self.modalities = modalities

    def load(self, records: Records, index: int) -> tuple[str, Any]:
        """(the row's modality, what that loads)."""
        name = modality_of(records.paths[index])
        return name, self.modalities[name].load(records, index)

    def augment(self, sample: tuple[str, Any], seed: int) -> tuple[str, torch.Tensor]:
        name, content = sample
        return name, self.modalities[name].augment(content, seed)

    def collate(self, samples: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
        return self.modalities[samples[0][0]].collate([inputs for _, inputs in samples])

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        return self.modalities[modality_of(records.paths[index])].thumbnail(records, index)


class InOrderByModality:
    """Batches as InOrder has them, of the rows of one modality, then of the next.

    Rank r of `world_size` has every `world_size`-th batch, from the r-th on.
    """

    def __init__(self, records: Records, batch_size: int, rank: int = 0, world_size: int = 1):
        names = np.array([modality_of(path) for path in records.paths.tolist()])
        batches = []
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        for rows in self.batches:
            yield [Sample(row, 0) for row in rows.tolist()]

    def rows(self) -> np.ndarray:
        """Indices of all rows of this rank, (n,) int64, in the order of its batches."""
        return np.concatenate([np.zeros(0, np.int64), *self.batches])
