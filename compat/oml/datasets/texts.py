"""Datasets of texts, as a tokenizer of transformers makes numbers of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compat.oml._errors import require
from compat.oml.const import BLACK, INDEX_KEY, INPUT_TENSORS_KEY, LABELS_KEY, TEXTS_COLUMN, TColor
from compat.oml.datasets._items import checked_extra, with_extra
from compat.oml.datasets.dataframe import (
    DFLabeledDataset,
    DFQueryGalleryDataset,
    DFQueryGalleryLabeledDataset,
    ShowsItems,
)
from compat.oml.interfaces.datasets import IBaseDataset, IVisualizableDataset
from compat.oml.utils.images.images import draw_bbox
from data.text.picture import draw_text_picture


class TextBaseDataset(IBaseDataset, IVisualizableDataset):
    """Texts, each padded to `max_length` tokens by the tokenizer of its network."""

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Callable,
        max_length: int = 128,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        # Not the column itself, whose index a filtered table leaves with gaps.
        self._texts = list(texts)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.extra_data = checked_extra(extra_data, len(self._texts))
        self.input_tensors_key = input_tensors_key
        self.index_key = index_key

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, item: int) -> dict[str, Any]:
        tokens = self._tokenizer(
            self._texts[item],
            truncation=True,
            padding="max_length",
            max_length=self._max_length,
            return_tensors="pt",
            add_special_tokens=True,
        )
        # One text is a batch of one to the tokenizer.
        for name in ("input_ids", "attention_mask"):
            tokens[name] = tokens[name].squeeze(0)
        data = {self.input_tensors_key: tokens, self.index_key: item}
        return with_extra(data, self.extra_data, item)

    def fingerprint(self) -> Iterator[bytes]:
        """What decides the items: the tokenizer and the texts."""
        yield f"{self._tokenizer!r} {self._max_length}".encode()
        for text in self._texts:
            yield text.encode(errors="surrogatepass")

    def visualize(self, item: int, color: TColor = BLACK) -> np.ndarray:
        return draw_bbox(draw_text_picture(self._texts[item]), None, color)


class TextLabeledDataset(DFLabeledDataset, ShowsItems):
    """Texts of a table with labels, to train on."""

    def __init__(
        self,
        df: Any,
        tokenizer: Callable,
        max_length: int = 128,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        labels_key: str = LABELS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        super().__init__(_texts_of(df, tokenizer, max_length, input_tensors_key, index_key), df, extra_data, labels_key)


class TextQueryGalleryLabeledDataset(DFQueryGalleryLabeledDataset, ShowsItems):
    """Texts of a table with labels, queries and galleries."""

    def __init__(
        self,
        df: Any,
        tokenizer: Callable,
        max_length: int = 128,
        extra_data: Mapping[str, Any] | None = None,
        labels_key: str = LABELS_KEY,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        super().__init__(_texts_of(df, tokenizer, max_length, input_tensors_key, index_key), df, extra_data, labels_key)


class TextQueryGalleryDataset(DFQueryGalleryDataset, ShowsItems):
    """Texts of a table with queries and galleries, without labels."""

    def __init__(
        self,
        df: Any,
        tokenizer: Callable,
        max_length: int = 128,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        super().__init__(_texts_of(df, tokenizer, max_length, input_tensors_key, index_key), df, extra_data)


def _texts_of(df: Any, tokenizer: Callable, max_length: int, input_tensors_key: str, index_key: str) -> TextBaseDataset:
    require(TEXTS_COLUMN in df.columns, f"the table has no column {TEXTS_COLUMN}")
    texts = np.asarray(df[TEXTS_COLUMN]).tolist()
    return TextBaseDataset(texts, tokenizer, max_length, None, input_tensors_key, index_key)


__all__ = ["TextBaseDataset", "TextLabeledDataset", "TextQueryGalleryDataset", "TextQueryGalleryLabeledDataset"]
