"""A list in memory, column by column."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.items import modality_of, noun_of, noun_of_modalities, text_of
from data.names import NO_NAMES, Names
from data.vocabulary import Vocabulary

# The columns of Records, which have a value for each image; what else it holds is about the list as a whole.
COLUMNS = ("paths", "labels", "is_query", "is_gallery", "categories", "sequences", "boxes", "lines", "files", "texts")
# Types of those columns that numpy would not choose by itself.
COLUMN_TYPES = {"lines": np.int64, "files": np.uint64}


@dataclass(frozen=True)
class Records:
    """One list of N images, column by column.

    source: the file or folder that the list was read from.
    paths: (N,) str; of a text the text itself, behind `text:` (core/items.py).
    labels: (N,) int64 where all labels of the file are plain integers, else str as the file has them; None where
        nobody knows any.
    is_query, is_gallery: (N,) bool.
    categories, sequences: (N,) str, or None.
    boxes: (N, 4) float64, left, top, right, bottom in pixels, a row of NaN for the whole image; or None.
    lines: (N,) int64, where in `source` the images stand; or None.
    files: (N, 2) uint64, which tells files on the disk apart, whatever their paths; or None.
    texts: (N,) str, what is said of an image that stands with a text in one row, "" of others; or None. To test with,
        an image stands once, and its texts with data/repeats.py's BETWEEN_TEXTS between them.
    notes: sentences on what should be known of the list.
    names: what labels and categories are called.
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
    texts: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    names: Names = NO_NAMES

    @classmethod
    def of_columns(cls, source: str | Path, columns: dict[str, list]) -> "Records":
        """Records of columns as they were read; without flags every image is a query and in the gallery."""
        everyone = np.ones(len(columns["paths"]), dtype=bool)
        arrays = {"labels": None, "is_query": everyone, "is_gallery": everyone}
        for name, column in columns.items():
            arrays[name] = np.array(column, dtype=COLUMN_TYPES.get(name))
        return cls(str(source), **arrays)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which labels there are, and which of them each image has: counted once, for whoever asks."""
        return Vocabulary.of(self.labels)

    @cached_property
    def modalities(self) -> frozenset[str]:
        """Of what kinds its rows are: looked at once, for whoever asks."""
        return frozenset(modality_of(path) for path in self.paths.tolist())

    @property
    def noun(self) -> str:
        """What a row is called in sentences: image, text, clip; row, where the list has several kinds."""
        return noun_of_modalities(self.modalities)

    @property
    def inspected(self) -> range:
        """Rows whose images are looked at before work begins: all of them."""
        return range(len(self))

    def name_of(self, index: int) -> str:
        """Row `index` as a sentence names it: `image 'cat.jpg'`, `text 'a cat'`."""
        path = self.paths[index]
        return f"{noun_of([path])} {text_of(path)!r}"

    def location(self, index: int) -> str:
        """Where image `index` stands, as messages say it: file:line, or the source of a list that has no lines."""
        if self.lines is None:
            return self.source
        return f"{self.source}:{self.lines[index]}"

    def box_of(self, index: int) -> np.ndarray | None:
        """The box of image `index`, (4,) float64; None if the list has none."""
        if self.boxes is None:
            return None
        return self.boxes[index]

    def label_text(self, index: int) -> str:
        """What the label of image `index` is called; `-` where nobody knows it."""
        if self.labels is None:
            return "-"
        return self.names.of_label(self.labels[index])

    @property
    def label_texts(self) -> np.ndarray:
        """What each image's label is called, (N,) str; two labels are never called the same."""
        return self.names.of_labels(self.vocabulary.labels)[self.vocabulary.codes]

    @property
    def category_texts(self) -> np.ndarray | None:
        """What each image's category is called, (N,) str, or None without categories."""
        if self.categories is None:
            return None
        distinct, codes = np.unique(self.categories, return_inverse=True)
        return self.names.of_categories(distinct)[codes.reshape(-1)]

    def take(self, indices: np.ndarray | list[int] | slice | range) -> "Records":
        """The list of only these images (indices, a mask or a slice)."""
        taken = {}
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None:
                taken[name] = column[indices]
        return dataclasses.replace(self, **taken)

    def with_notes(self, notes: Iterable[str]) -> "Records":
        """The same list with more notes, behind those that it has."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))
