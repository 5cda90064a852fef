"""What labels and categories are called: a table beside a list."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import InputError, meant_by, near_match

NAMES_COLUMNS = ("kind", "id", "name")
KINDS = ("label", "category")


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
