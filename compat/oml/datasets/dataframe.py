"""A dataset of items beside the table that says what they are: labels, categories, sequences, queries and galleries.

A table is a pandas.DataFrame, or anything that gives a column by its name and has `columns`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from compat.oml._errors import require
from compat.oml.const import (
    BLACK,
    CATEGORIES_COLUMN,
    IS_GALLERY_COLUMN,
    IS_QUERY_COLUMN,
    LABELS_COLUMN,
    LABELS_KEY,
    SEQUENCE_COLUMN,
    TColor,
)
from compat.oml.interfaces.datasets import (
    IBaseDataset,
    ILabeledDataset,
    IQueryGalleryDataset,
    IQueryGalleryLabeledDataset,
    IVisualizableDataset,
)


class _WithTable(IBaseDataset):
    """The items of `dataset`, whose further columns are joined by categories and sequences of the table."""

    def __init__(self, dataset: IBaseDataset, df: Any, extra_data: Mapping[str, Any] | None = None) -> None:
        dataset.extra_data.update(extra_data or {})
        for name in (CATEGORIES_COLUMN, SEQUENCE_COLUMN):
            if name in df.columns:
                # Not the column itself, whose index a filtered table leaves with gaps.
                dataset.extra_data[name] = np.asarray(df[name])
        self._dataset = dataset
        self.df = df
        self.extra_data = dataset.extra_data
        self.index_key = dataset.index_key
        self.input_tensors_key = dataset.input_tensors_key

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self._dataset[item]


class ShowsItems(IVisualizableDataset):
    """Shows an item as the dataset of items does."""

    def visualize(self, item: int, color: TColor = BLACK) -> np.ndarray:
        return self._dataset.visualize(item=item, color=color)


class DFLabeledDataset(_WithTable, ILabeledDataset):
    """Items with labels, to train on."""

    def __init__(
        self, dataset: IBaseDataset, df: Any, extra_data: Mapping[str, Any] | None = None, labels_key: str = LABELS_KEY
    ) -> None:
        _require_columns(df, LABELS_COLUMN)
        super().__init__(dataset, df, extra_data)
        self.labels_key = labels_key
        self._labels = np.asarray(df[LABELS_COLUMN])

    def __getitem__(self, item: int) -> dict[str, Any]:
        data = super().__getitem__(item)
        data[self.labels_key] = self._labels[item]
        return data

    def get_labels(self) -> np.ndarray:
        return self._labels

    def get_label2category(self) -> dict[int, str | int] | None:
        if CATEGORIES_COLUMN not in self.df.columns:
            return None
        return dict(zip(self._labels.tolist(), np.asarray(self.df[CATEGORIES_COLUMN]).tolist()))


class DFQueryGalleryDataset(_WithTable, IQueryGalleryDataset):
    """Items that ask and that can be found."""

    def __init__(self, dataset: IBaseDataset, df: Any, extra_data: Mapping[str, Any] | None = None) -> None:
        _require_columns(df, IS_QUERY_COLUMN, IS_GALLERY_COLUMN)
        super().__init__(dataset, df, extra_data)
        self._query_ids = _flagged(df, IS_QUERY_COLUMN)
        self._gallery_ids = _flagged(df, IS_GALLERY_COLUMN)

    def get_query_ids(self) -> torch.Tensor:
        return self._query_ids

    def get_gallery_ids(self) -> torch.Tensor:
        return self._gallery_ids


class DFQueryGalleryLabeledDataset(DFLabeledDataset, DFQueryGalleryDataset, IQueryGalleryLabeledDataset):
    """Items that ask and that can be found, with labels to judge by."""

    def __init__(
        self, dataset: IBaseDataset, df: Any, extra_data: Mapping[str, Any] | None = None, labels_key: str = LABELS_KEY
    ) -> None:
        _require_columns(df, IS_QUERY_COLUMN, IS_GALLERY_COLUMN, LABELS_COLUMN)
        DFQueryGalleryDataset.__init__(self, dataset, df, extra_data)
        self.labels_key = labels_key
        self._labels = np.asarray(df[LABELS_COLUMN])


def _require_columns(df: Any, *names: str) -> None:
    missing = [name for name in names if name not in df.columns]
    require(not missing, f"the table has no column {', '.join(missing)}; there are: {', '.join(map(str, df.columns))}")


def _flagged(df: Any, name: str) -> torch.Tensor:
    """Rows (n,) int64 of which a flag is set, as True or 1."""
    return torch.from_numpy(np.flatnonzero(np.asarray(df[name]) == 1))


__all__ = ["DFLabeledDataset", "DFQueryGalleryDataset", "DFQueryGalleryLabeledDataset", "ShowsItems"]
