"""Pairs of items of a dataset."""

from collections.abc import Sequence
from typing import Any

from compat.oml.const import INDEX_KEY, INPUT_TENSORS_KEY_1, INPUT_TENSORS_KEY_2
from compat.oml.interfaces.datasets import IBaseDataset, IPairDataset


class PairDataset(IPairDataset):
    """pair_ids: two numbers of items each."""

    def __init__(
        self,
        base_dataset: IBaseDataset,
        pair_ids: Sequence[tuple[int, int]],
        input_tensors_key_1: str = INPUT_TENSORS_KEY_1,
        input_tensors_key_2: str = INPUT_TENSORS_KEY_2,
        index_key: str = INDEX_KEY,
    ) -> None:
        self.base_dataset = base_dataset
        self.pair_ids = pair_ids
        self.input_tensors_key_1 = input_tensors_key_1
        self.input_tensors_key_2 = input_tensors_key_2
        self.index_key = index_key

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __getitem__(self, item: int) -> dict[str, Any]:
        first, second = self.pair_ids[item]
        key = self.base_dataset.input_tensors_key
        return {
            self.input_tensors_key_1: self.base_dataset[first][key],
            self.input_tensors_key_2: self.base_dataset[second][key],
            self.index_key: item,
        }


__all__ = ["PairDataset"]
