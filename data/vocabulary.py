"""Which labels a list has, and which of them each image has."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from core.numerals import is_plain_int64


@dataclass(frozen=True)
class Vocabulary:
    """The C labels of a list of N images.

    labels: (C,) int64 or str, ascending, as the list has them.
    codes: (N,) int64, for each image the position of its label in `labels`.
    counts: (C,) int64, images of each label.
    is_stored: whether `codes` and `rows` are those of a list on the disk (data/stored.py), of which none is copied.
    """

    labels: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    is_stored: ClassVar[bool] = False

    @classmethod
    def of(cls, labels: np.ndarray) -> "Vocabulary":
        """The vocabulary of a column of labels (N,), integers or strings."""
        distinct, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        # Some versions of numpy give the codes of a column another shape.
        return cls(distinct, codes.reshape(-1).astype(np.int64), counts)

    def __len__(self) -> int:
        """The number of labels."""
        return len(self.labels)

    @cached_property
    def rows(self) -> np.ndarray:
        """The N images, those of a label side by side: by code, then by their order in the list, (N,) int64."""
        return np.argsort(self.codes, kind="stable")

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the images of each label begin in `rows`, (C,) int64."""
        return np.cumsum(self.counts) - self.counts

    def rows_of(self, code: int) -> np.ndarray:
        """The images of the label `code`, in the order of the list, (counts[code],) int64."""
        start = self.starts[code]
        return self.rows[start : start + self.counts[code]]


def as_labels(texts: list[str], all_plain: bool | None = None) -> np.ndarray:
    """A column of labels (N,) from its texts: int64 where every one of them is a plain integer, else str as written.

    So `007` and `7` are two labels, as are `1_12` and `112`. all_plain: whether the texts of the whole file, of which
    these may be only some, are plain integers; None where these are all.
    """
    if all_plain is None:
        all_plain = all(is_plain_int64(text) for text in texts)
    if all_plain:
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts, dtype=np.str_)


def of_one_kind(*columns: np.ndarray) -> list[np.ndarray]:
    """Columns of labels that can be compared: as they are if all are integers or all strings, else all as strings.

    A train list may have integers only where the test list has a label that is none.
    """
    kinds = {column.dtype.kind in "iu" for column in columns}
    if len(kinds) < 2:
        return list(columns)
    return [column.astype(np.str_) for column in columns]
