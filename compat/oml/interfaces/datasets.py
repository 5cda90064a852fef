"""What a dataset can do: give items, labels, queries and galleries, pictures."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from compat.oml.const import (
    BLACK,
    INDEX_KEY,
    INPUT_TENSORS_KEY,
    INPUT_TENSORS_KEY_1,
    INPUT_TENSORS_KEY_2,
    LABELS_KEY,
    TColor,
)


class IIndexedDataset(Dataset, ABC):
    """Items are dicts; `index_key` is the key of an item's number."""

    index_key: str = INDEX_KEY

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The item of this number."""
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__()")

    def __len__(self) -> int:
        """How many items there are."""
        raise NotImplementedError(f"{type(self).__name__} has no __len__()")


class IBaseDataset(IIndexedDataset, ABC):
    """Items have what a network takes under `input_tensors_key`. extra_data: further columns, {key: (N,)}."""

    input_tensors_key: str = INPUT_TENSORS_KEY
    extra_data: dict[str, Any]


class ILabeledDataset(IBaseDataset, ABC):
    """Items have a label under `labels_key`."""

    labels_key: str = LABELS_KEY

    @abstractmethod
    def get_labels(self) -> np.ndarray:
        """Labels (N,)."""

    def get_label2category(self) -> dict[int, str | int] | None:
        """{label: category}; None where categories are unknown."""
        return None


class IQueryGalleryDataset(IBaseDataset, ABC):
    """Some items ask, some can be found; an item may do both."""

    @abstractmethod
    def get_query_ids(self) -> torch.Tensor:
        """Numbers of the queries, (Q,) int64."""

    @abstractmethod
    def get_gallery_ids(self) -> torch.Tensor:
        """Numbers of the items that can be found, (G,) int64."""


class IQueryGalleryLabeledDataset(IQueryGalleryDataset, ILabeledDataset, ABC):
    """Queries and galleries with labels, to be judged by."""


class IPairDataset(IIndexedDataset, ABC):
    """Items are pairs: what a pairwise model takes stands under two keys."""

    input_tensors_key_1: str = INPUT_TENSORS_KEY_1
    input_tensors_key_2: str = INPUT_TENSORS_KEY_2


class IVisualizableDataset(Dataset, ABC):
    """A dataset of which an item can be shown."""

    @abstractmethod
    def visualize(self, item: int, color: TColor = BLACK) -> np.ndarray:
        """The item as a picture (H, W, 3) uint8 RGB, framed in a colour."""


class IHTMLVisualizableDataset(Dataset, ABC):
    """A dataset of which an item can be shown on a page."""

    @abstractmethod
    def visualize_as_html(self, item: int, title: str, color: TColor = BLACK) -> str:
        """The item as a block of HTML with a title, framed in a colour."""


__all__ = [
    "IBaseDataset",
    "IHTMLVisualizableDataset",
    "IIndexedDataset",
    "ILabeledDataset",
    "IPairDataset",
    "IQueryGalleryDataset",
    "IQueryGalleryLabeledDataset",
    "IVisualizableDataset",
]
