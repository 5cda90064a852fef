"""The labels of a list as a vocabulary: which there are, which of them each image has, and what people call them."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError, meant_by, near_match
from numerals import is_plain_int64

NAMES_COLUMNS = ("kind", "id", "name")
KINDS = ("label", "category")


@dataclass(frozen=True)
class Vocabulary:
    """The C labels of a list of N images.

    labels: (C,) int64 or str, ascending, as the list has them. codes: (N,) int64, the place of each image's label in
    `labels`. counts: (C,) int64, images of each label.
    """

    labels: np.ndarray
    codes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "Vocabulary":
        """The vocabulary of a column of labels (N,), integers or strings."""
        names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return cls(names, codes.reshape(-1).astype(np.int64), counts)

    def __len__(self) -> int:
        return len(self.labels)


def as_labels(texts: list[str], all_plain: bool | None = None) -> np.ndarray:
    """A column of labels (N,) from its texts: int64 where every one of them is a plain integer, else str as written.

    So `007` and `7` are two labels, as are `1_12` and `112`. all_plain: whether the texts of the whole file, of which
    these are a part, are plain integers; None where these are all.
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
    return list(columns) if len(kinds) < 2 else [column.astype(np.str_) for column in columns]


@dataclass(frozen=True)
class Names:
    """What labels and categories are called, where a table beside the list says so: {id as text: name} each."""

    label: dict[str, str]
    category: dict[str, str]

    def of_label(self, label) -> str:
        """The name of a label (integer or string), itself where it has none."""
        return self.label.get(str(label), str(label))

    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        """The names of distinct labels (C,), str, no two of them the same."""
        return _distinct(labels, self.label)

    def of_categories(self, categories: np.ndarray) -> np.ndarray:
        """The names of distinct categories (C,), str, no two of them the same."""
        return _distinct(categories, self.category)


def _distinct(ids: np.ndarray, names: dict[str, str]) -> np.ndarray:
    """What ids are called; what several of them are called has the id behind it, as `crane (17)`."""
    texts = [names.get(str(own_id), str(own_id)) for own_id in ids.tolist()]
    numbers = Counter(texts)
    shown = [text if numbers[text] == 1 else f"{text} ({own_id})" for text, own_id in zip(texts, ids.tolist())]
    return np.array(shown, dtype=np.str_)


NO_NAMES = Names({}, {})


def names_file(source: str | Path) -> Path | None:
    """The table of names of a list: LIST.names.csv, else label_names.csv in its folder; None where there is none.

    A folder that serves as a list has its label_names.csv in it.
    """
    source = Path(source)
    beside = source if source.is_dir() else source.parent
    own = source.with_name(f"{source.stem}.names.csv")
    return next((file for file in (own, beside / "label_names.csv") if file.is_file()), None)


def read_names(source: str | Path) -> Names:
    """The names that go with a list (`names_file`); none where there is no table.

    The table is a csv with the columns kind (label or category), id (as in the list) and name. Raises InputError with
    file and line for anything else, and for an id that has two names.
    """
    file = names_file(source)
    if file is None:
        return NO_NAMES
    found = {kind: {} for kind in KINDS}
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, skipinitialspace=True)
            _check_header(file, table.fieldnames or [])
            for row in table:
                _take_name(file, table.line_num, row, found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the names in {str(file)!r}: {error}") from None
    return Names(**found)


def _check_header(file: Path, header: list[str]):
    for column in NAMES_COLUMNS:
        if column not in header:
            needed = ", ".join(NAMES_COLUMNS)
            raise InputError(
                f"{file}:1: no column {column!r} in {header}; names need {needed}.{meant_by(column, header)}"
            )


def _take_name(file: Path, line: int, row: dict, found: dict[str, dict[str, str]]):
    if None in row or None in row.values():
        raise InputError(f"{file}:{line}: the row has more or fewer values than the header has columns")
    kind, own_id, name = (row[column].strip() for column in NAMES_COLUMNS)
    if kind not in KINDS:
        raise InputError(f"{file}:{line}: kind is {kind!r}, expected label or category.{near_match(kind, KINDS)}")
    if found[kind].setdefault(own_id, name) != name:
        raise InputError(f"{file}:{line}: {kind} {own_id!r} is called {name!r}, but above {found[kind][own_id]!r}")
