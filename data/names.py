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

    def of_label(self, label: int | str) -> str:
        """The name of a label, itself where it has none."""
        return self.label.get(str(label), str(label))

    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        """The names of distinct labels (C,), str, no two of them the same."""
        return _distinct_names(labels, self.label)

    def of_categories(self, categories: np.ndarray) -> np.ndarray:
        """The names of distinct categories (C,), str, no two of them the same."""
        return _distinct_names(categories, self.category)


def _distinct_names(ids: np.ndarray, names: dict[str, str]) -> np.ndarray:
    """What ids (C,) are called, (C,) str; a name that several of them have gets the id behind it, as `crane (17)`."""
    ids = ids.tolist()
    texts = [names.get(str(key), str(key)) for key in ids]
    uses = Counter(texts)
    for position, text in enumerate(texts):
        if uses[text] > 1:
            texts[position] = f"{text} ({ids[position]})"
    return np.array(texts, dtype=np.str_)


NO_NAMES = Names({}, {})


def names_file(source: str | Path) -> Path | None:
    """The table of names of a list: LIST.names.csv, else label_names.csv in its folder; None where there is none.

    A folder that serves as a list has its label_names.csv in it.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    for file in (source.with_name(f"{source.stem}.names.csv"), folder / "label_names.csv"):
        if file.is_file():
            return file
    return None


def read_names(source: str | Path) -> Names:
    """The names that go with a list (`names_file`); none where there is no table.

    The table is a csv with the columns kind (label or category), id (as in the list) and name. Raises InputError with
    file and line for anything else, and for an id that has two names.
    """
    file = names_file(source)
    if file is None:
        return NO_NAMES
    names = {kind: {} for kind in KINDS}
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, skipinitialspace=True)
            _check_header(file, table.fieldnames or [])
            for row in table:
                _add_name(file, table.line_num, row, names)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the names in {str(file)!r}: {error}") from None
    return Names(**names)


def _check_header(file: Path, header: list[str]) -> None:
    for column in NAMES_COLUMNS:
        if column not in header:
            needed = ", ".join(NAMES_COLUMNS)
            hint = meant_by(column, header)
            raise InputError(f"{file}:1: no column {column!r} in {header}; names need {needed}.{hint}")


def _add_name(file: Path, line: int, row: dict[str, str], names: dict[str, dict[str, str]]) -> None:
    """Enter one row of the table in `names`, {kind: {id: name}}."""
    # csv.DictReader gathers superfluous values under the key None, and fills missing ones in with None.
    if None in row or None in row.values():
        raise InputError(f"{file}:{line}: the row has more or fewer values than the header has columns")
    kind, key, name = (row[column].strip() for column in NAMES_COLUMNS)
    if kind not in KINDS:
        raise InputError(f"{file}:{line}: kind is {kind!r}, expected label or category.{near_match(kind, KINDS)}")
    before = names[kind].setdefault(key, name)
    if before != name:
        raise InputError(f"{file}:{line}: {kind} {key!r} is called {name!r}, but above {before!r}")
