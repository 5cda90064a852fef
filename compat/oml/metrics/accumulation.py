"""Columns of batches, gathered until all items are there."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch

from compat.oml._errors import RefusedResults, RefusedType, require
from compat.oml.ddp.utils import get_world_size_safe, merge_list_of_dicts, sync_dicts_ddp
from core.errors import InputError
from core.text import counted

TStorage = dict[str, torch.Tensor | np.ndarray | list[Any]]


class Accumulator:
    """`refresh(num_samples)`, `update_data(batch)` until they are all there, `sync()` for those of all processes.

    keys_to_accumulate: what is taken of a batch: tensors, arrays or lists of one length. Raises RefusedAssertion for
    columns that do not fit, InputError where items are missing.
    """

    _indices_key = "__element_indices"

    def __init__(self, keys_to_accumulate: Sequence[str]) -> None:
        require(len(set(keys_to_accumulate)) == len(keys_to_accumulate), "a key to accumulate is named twice")
        self.keys_to_accumulate = keys_to_accumulate
        self.num_samples: int | None = None
        self._batches: list[TStorage] = []
        self._count = 0

    def refresh(self, num_samples: int) -> None:
        """Forget what was gathered. num_samples: how many items there will be."""
        require(isinstance(num_samples, int) and num_samples > 0, f"num_samples is {num_samples}; it is 1 or more")
        self.num_samples = num_samples
        self._batches = []
        self._count = 0

    def update_data(self, data_dict: dict[str, Any], indices: list[int] | None = None) -> None:
        """A batch, and with `indices` which items it is of, or of every batch without them."""
        if self.num_samples is None:
            raise InputError("how many items there will be is not known; refresh() says it")
        with_indices = indices is not None
        require(indices is None or isinstance(indices, list), f"indices are a list, not {type(indices).__name__}")
        if self._batches and with_indices != (self._indices_key in self._batches[0]):
            # OML has two kinds of exceptions for it.
            require(with_indices, "earlier batches came with indices, this one without")
            raise RefusedResults("this batch has indices, earlier ones came without")
        batch = {key: _kept(key, data_dict[key]) for key in self.keys_to_accumulate}
        if with_indices:
            batch[self._indices_key] = list(indices)
        lengths = {key: len(column) for key, column in batch.items()}
        require(len(set(lengths.values())) == 1, f"columns of a batch have one length, not {lengths}")
        self._batches.append(batch)
        self._count += next(iter(lengths.values()))

    @property
    def storage(self) -> TStorage:
        """What was gathered, by keys."""
        return merge_list_of_dicts(self._batches) if self._batches else {}

    @property
    def indices(self) -> list[int] | None:
        """Which items they are of; None where batches came without."""
        return self.storage.get(self._indices_key)

    @property
    def collected_samples(self) -> int:
        return self._count

    def is_storage_full(self) -> bool:
        return self.num_samples == self._count

    def sync(self) -> Self:
        """What all processes have gathered; where indices are known each item once, in their order."""
        if not self.is_storage_full():
            raise InputError(f"{self._count} of {counted(self.num_samples, 'item')} are there; all of them are needed")
        is_alone = get_world_size_safe() <= 1
        storage = sync_dicts_ddp(self.storage, get_world_size_safe())
        indices = storage.pop(self._indices_key, None)
        if is_alone and indices is None:
            return self
        if indices is not None:
            ordered, rows = np.unique(indices, return_index=True)
            storage = {key: _taken(column, rows) for key, column in storage.items()}
            indices = ordered.tolist()
        synced = type(self)(self.keys_to_accumulate)
        synced.refresh(len(next(iter(storage.values()))))
        synced.update_data(storage, indices)
        return synced


def _kept(key: str, column: Any) -> Any:
    if isinstance(column, torch.Tensor):
        return column.detach().cpu()
    if isinstance(column, (np.ndarray, list, tuple)):
        return list(column) if isinstance(column, tuple) else column
    raise RefusedType(f"{key!r} is {type(column).__name__}; tensors, arrays and lists are gathered")


def _taken(column: Any, rows: np.ndarray) -> Any:
    return [column[row] for row in rows] if isinstance(column, list) else column[rows]


__all__ = ["Accumulator", "TStorage"]
