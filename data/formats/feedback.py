"""feedback.csv, what people said of a search's answers: a line says of two items whether they are the same."""

import csv
from pathlib import Path
from typing import NamedTuple

from core.errors import InputError
from data.formats.csv import BOOLEANS, rows_of_edited
from data.formats.problems import Problems, echo

NEEDED = ("query", "item", "same")


class Opinion(NamedTuple):
    """One line: the names of two items (item_name of an index), and whether somebody called them the same."""

    query: str
    item: str
    same: bool


def read_feedback(file: str | Path) -> list[Opinion]:
    """The lines of such a file, in their order.

    Raises InputError for what cannot be read, for a column that is missing, and for all lines that are wrong.
    """

    def missing_columns(missing: list[str], header: list[str]) -> str:
        return f"feedback {str(file)!r} has no column {', '.join(missing)}; it has {', '.join(header) or 'none'}"

    problems = Problems()
    opinions = []
    try:
        for line, cells in rows_of_edited(file, NEEDED, missing_columns):
            query, item, same = (cells[name] or "" for name in NEEDED)
            meant = BOOLEANS.get(same.strip().lower())
            if meant is None or not query or not item:
                sentence = f"same is {echo(same)}; it has to be 1 or 0, behind a query and an item"
                problems.add(line, sentence)
            else:
                opinions.append(Opinion(query, item, meant))
    except OSError as error:
        raise InputError(f"cannot read feedback {str(file)!r}: {error.strerror or error}") from None
    except csv.Error as error:
        raise InputError(f"feedback {str(file)!r} is no csv: {error}") from None
    if problems:
        raise InputError("\n".join(problems.lines(file)))
    return opinions
