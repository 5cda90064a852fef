"""Datasets of images."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compat.oml._errors import require
from compat.oml.const import (
    BBOXES_COLUMNS,
    BLACK,
    INDEX_KEY,
    INPUT_TENSORS_KEY,
    LABELS_COLUMN,
    LABELS_KEY,
    PATHS_COLUMN,
    SPLIT_COLUMN,
    X1_COLUMN,
    X2_COLUMN,
    Y1_COLUMN,
    Y2_COLUMN,
    TBBox,
    TColor,
)
from compat.oml.datasets._items import checked_extra, with_extra
from compat.oml.datasets.dataframe import (
    DFLabeledDataset,
    DFQueryGalleryDataset,
    DFQueryGalleryLabeledDataset,
    ShowsItems,
)
from compat.oml.interfaces.datasets import IBaseDataset, IVisualizableDataset
from compat.oml.transforms.images.torchvision import get_normalisation_torch
from compat.oml.transforms.images.utils import get_im_reader_for_transforms, takes_arrays
from compat.oml.utils.dataframe_format import check_retrieval_dataframe_format
from compat.oml.utils.images.images import TImReader, draw_bbox, imread_pillow
from core.errors import InputError
from core.packages import needed
from core.text import counted
from data.image.files import read_bytes


class ImageBaseDataset(IBaseDataset, IVisualizableDataset):
    """Images by their paths, with a box each where there is one.

    dataset_root: the folder that paths are of. bboxes: left, top, right, bottom in pixels, or None for the whole image.
    transform: an image to what the network takes; None: normalised by ImageNet's means alone. f_imread: from the bytes
    of a file to what `transform` takes. cache_size: files whose bytes are kept in memory.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        dataset_root: str | Path | None = None,
        bboxes: Sequence[TBBox | None] | None = None,
        extra_data: Mapping[str, Any] | None = None,
        transform: Callable | None = None,
        f_imread: TImReader | None = None,
        cache_size: int | None = 0,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        paths = [str(Path(dataset_root or "", path)) for path in paths]
        require(
            bboxes is None or len(bboxes) == len(paths),
            f"{counted(len(bboxes or ()), 'box')} for {counted(len(paths), 'image')}",
        )
        self.extra_data = checked_extra(extra_data, len(paths))
        self.input_tensors_key = input_tensors_key
        self.index_key = index_key
        self._paths = paths
        self._bboxes = bboxes
        self._transform = transform or get_normalisation_torch()
        self._f_imread = f_imread or get_im_reader_for_transforms(self._transform)
        self.read_bytes = _file
        if cache_size:
            self.read_bytes = functools.lru_cache(maxsize=cache_size)(_file)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, item: int) -> dict[str, Any]:
        image = self._f_imread(self.read_bytes(self._paths[item]))
        box = self._box(item)
        if takes_arrays(self._transform):
            if box is not None:
                left, top, right, bottom = box
                image = image[top:bottom, left:right]
            tensor = self._transform(image=image)["image"]
        else:
            if box is not None:
                image = image.crop(box)
            tensor = self._transform(image)
        data = {self.input_tensors_key: tensor, self.index_key: item}
        return with_extra(data, self.extra_data, item)

    def fingerprint(self) -> Iterator[bytes]:
        """What decides the items: transform, reader, boxes and the content of each file."""
        # A function by its name: where it lies in memory is another thing in every process.
        reader = getattr(self._f_imread, "__qualname__", repr(self._f_imread))
        yield f"{self._transform!r} {reader} {self._bboxes!r}".encode()
        for path in self._paths:
            yield hashlib.sha256(self.read_bytes(path)).digest()

    def visualize(self, item: int, color: TColor = BLACK) -> np.ndarray:
        picture = np.asarray(imread_pillow(self.read_bytes(self._paths[item])))
        return draw_bbox(picture, self._box(item), color)

    def _box(self, item: int) -> TBBox | None:
        if self._bboxes is None or self._bboxes[item] is None:
            return None
        return tuple(int(side) for side in self._bboxes[item])


class ImageLabeledDataset(DFLabeledDataset, ShowsItems):
    """Images of a table with labels, to train on."""

    def __init__(
        self,
        df: Any,
        extra_data: Mapping[str, Any] | None = None,
        dataset_root: str | Path | None = None,
        transform: Callable | None = None,
        f_imread: TImReader | None = None,
        cache_size: int | None = 0,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        labels_key: str = LABELS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        images = _images_of(df, dataset_root, transform, f_imread, cache_size, input_tensors_key, index_key)
        super().__init__(images, df, extra_data, labels_key)


class ImageQueryGalleryLabeledDataset(DFQueryGalleryLabeledDataset, ShowsItems):
    """Images of a table with labels, queries and galleries; one that is both is compared with all but itself."""

    def __init__(
        self,
        df: Any,
        extra_data: Mapping[str, Any] | None = None,
        dataset_root: str | Path | None = None,
        transform: Callable | None = None,
        f_imread: TImReader | None = None,
        cache_size: int | None = 0,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        labels_key: str = LABELS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        images = _images_of(df, dataset_root, transform, f_imread, cache_size, input_tensors_key, index_key)
        super().__init__(images, df, extra_data, labels_key)


class ImageQueryGalleryDataset(DFQueryGalleryDataset, ShowsItems):
    """Images of a table with queries and galleries, without labels."""

    def __init__(
        self,
        df: Any,
        extra_data: Mapping[str, Any] | None = None,
        dataset_root: str | Path | None = None,
        transform: Callable | None = None,
        f_imread: TImReader | None = None,
        cache_size: int | None = 0,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
    ) -> None:
        images = _images_of(df, dataset_root, transform, f_imread, cache_size, input_tensors_key, index_key)
        super().__init__(images, df, extra_data)


def get_retrieval_images_datasets(
    dataset_root: Path,
    transforms_train: Any,
    transforms_val: Any,
    f_imread_train: TImReader | None = None,
    f_imread_val: TImReader | None = None,
    dataframe_name: str = "df.csv",
    cache_size: int | None = 0,
    verbose: bool = True,
) -> tuple[ImageLabeledDataset, ImageQueryGalleryLabeledDataset]:
    """(images to train on, whose labels are counted from 0, images to validate on) of a folder with its table.

    Raises RefusedAssertion with all that is wrong with the table.
    """
    pandas = needed("pandas", "get_retrieval_images_datasets()", "oml")
    table = pandas.read_csv(Path(dataset_root) / dataframe_name, index_col=False)
    check_retrieval_dataframe_format(table, dataset_root, verbose=verbose)
    train = table[table[SPLIT_COLUMN] == "train"].reset_index(drop=True)
    # In the order in which they come, as there.
    train[LABELS_COLUMN] = pandas.factorize(train[LABELS_COLUMN])[0]
    validation = table[table[SPLIT_COLUMN] == "validation"].reset_index(drop=True)
    return (
        ImageLabeledDataset(train, None, dataset_root, transforms_train, f_imread_train, cache_size),
        ImageQueryGalleryLabeledDataset(validation, None, dataset_root, transforms_val, f_imread_val, cache_size),
    )


def parse_bboxes(df: Any) -> list[TBBox | None] | None:
    """The boxes of a table's rows, None for a row without one; None where it has no such columns.

    Raises InputError where only some of the columns are there, or a box has only some of its sides.
    """
    present = [name for name in BBOXES_COLUMNS if name in df.columns]
    if not present:
        return None
    if len(present) < len(BBOXES_COLUMNS):
        raise InputError(f"a box needs {', '.join(BBOXES_COLUMNS)}; the table has {', '.join(present)} alone")
    columns = [np.asarray(df[name], dtype=np.float64) for name in (X1_COLUMN, Y1_COLUMN, X2_COLUMN, Y2_COLUMN)]
    sides = np.stack(columns, axis=1)
    is_open = np.isnan(sides)
    torn = np.flatnonzero(is_open.any(1) & ~is_open.all(1))
    if len(torn):
        raise InputError(f"row {torn[0]}: the box {sides[torn[0]].tolist()} has only some of its sides")
    boxes = []
    for row, has_none in zip(sides, is_open.all(1)):
        boxes.append(None if has_none else tuple(int(side) for side in row))
    return boxes


def _images_of(
    df: Any,
    dataset_root: str | Path | None,
    transform: Callable | None,
    f_imread: TImReader | None,
    cache_size: int | None,
    input_tensors_key: str,
    index_key: str,
) -> ImageBaseDataset:
    require(PATHS_COLUMN in df.columns, f"the table has no column {PATHS_COLUMN}")
    return ImageBaseDataset(
        paths=np.asarray(df[PATHS_COLUMN]).tolist(),
        dataset_root=dataset_root,
        bboxes=parse_bboxes(df),
        transform=transform,
        f_imread=f_imread,
        cache_size=cache_size,
        input_tensors_key=input_tensors_key,
        index_key=index_key,
    )


def _file(path: str) -> bytes:
    return read_bytes(path).tobytes()


__all__ = [
    "ImageBaseDataset",
    "ImageLabeledDataset",
    "ImageQueryGalleryDataset",
    "ImageQueryGalleryLabeledDataset",
    "get_retrieval_images_datasets",
    "parse_bboxes",
]
