"""A list in memory, column by column."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.names import NO_NAMES, Names
from data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Records:
    """One list of N images, column by column.

    `labels` (N,) int64 where all labels of the file are plain integers, else str as the file has them; None where
    nobody knows any. `is_query`, `is_gallery` (N,) bool; `categories` and `sequences` are (N,) arrays of str or None;
    `boxes` is (N, 4) float64 left, top, right, bottom in pixels (NaN row: the whole image) or None; `source` is the
    file or folder and `lines` (N,) int64 where in it they stand, or None. `files` (N, 2) tells files on the disk apart,
    whatever their paths. `notes`: sentences on what should be known of the list; `names`: what labels are called.
    """

    source: str
    paths: np.ndarray
    labels: np.ndarray | None
    is_query: np.ndarray
    is_gallery: np.ndarray
    categories: np.ndarray | None = None
    sequences: np.ndarray | None = None
    boxes: np.ndarray | None = None
    lines: np.ndarray | None = None
    files: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    names: Names = NO_NAMES

    def __len__(self):
        return len(self.paths)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which labels there are, and which of them each image has."""
        return Vocabulary.of(self.labels)

    def label_text(self, index) -> str:
        """What the label of image `index` is called; `-` where nobody knows it."""
        return "-" if self.labels is None else self.names.of_label(self.labels[index])

    @property
    def label_texts(self) -> np.ndarray:
        """What each image's label is called, (N,) str; two labels are never called the same."""
        return self.names.of_labels(self.vocabulary.labels)[self.vocabulary.codes]

    @property
    def category_texts(self) -> np.ndarray | None:
        """What each image's category is called, (N,) str, or None without categories."""
        if self.categories is None:
            return None
        own, codes = np.unique(self.categories, return_inverse=True)
        return self.names.of_categories(own)[codes.reshape(-1)]

    def box_of(self, index):
        """The box of image `index`, (4,) float64; None if the list has none."""
        return None if self.boxes is None else self.boxes[index]

    def take(self, indices):
        """The list of only these rows (indices, a mask or a slice)."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in OF_THE_WHOLE}
        taken = {name: None if column is None else column[indices] for name, column in columns.items()}
        return dataclasses.replace(self, **taken)


OF_THE_WHOLE = ("source", "notes", "names")  # what an ImageList holds that is no column
