"""A list that is examined: its rows as they are written beside those that can be used, and their embeddings."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.text import counted
from data.fixes import RawList, RawRow, read_raw_list
from data.formats.csv import parse_csv
from data.formats.problems import SHOWN_FAULTS, Problems
from data.lists import read_list
from data.records import Records
from embeddings.table import EmbeddingTable
from retrieval.index.items import item_name

Fault = tuple[RawRow, str]  # a row that cannot be used, and why


@dataclass(frozen=True)
class Subject:
    """A list to examine.

    raw: as it is written. records: its rows that can be used, N. rows: each of these as it is written. is_test: (N,)
    bool, which of them are to test with; None where the list does not say. faults: the other rows.
    """

    raw: RawList
    records: Records
    rows: list[RawRow]
    is_test: np.ndarray | None
    faults: list[Fault]

    def without(self, problems: dict[int, str]) -> "Subject":
        """The list without those of its records, by their number, that turned out to have problems.

        Raises InputError where nothing is left.
        """
        kept = [row for row in range(len(self.records)) if row not in problems]
        if not kept:
            raise InputError(
                f"{self.raw.file}: not one {self.records.noun} can be read; {next(iter(problems.values()))}"
            )
        return replace(
            self,
            records=self.records.take(kept),
            rows=[self.rows[row] for row in kept],
            is_test=None if self.is_test is None else self.is_test[kept],
            faults=self.faults + [(self.rows[row], problem) for row, problem in sorted(problems.items())],
        )


def open_subject(path: str | Path, data_dir: str | Path | None) -> Subject:
    """A list with all of its rows, of whatever split.

    Raises InputError where it cannot be read at all, in the sentences that say why.
    """
    raw = read_raw_list(path, data_dir)
    records, sentences = read_list(path, data_dir, None)
    rows = {row.number: row for row in raw.rows}
    faults = []
    others = []
    prefix = f"{raw.file}:"
    for sentence in sentences:
        number, _, reason = sentence.removeprefix(prefix).partition(": ")
        row = rows.get(int(number)) if number.isdecimal() else None
        if row is None:
            others.append(sentence)
        else:
            faults.append((row, reason))
    if records is None or others:
        shown = (others or sentences)[:SHOWN_FAULTS]
        raise InputError("\n".join(shown))
    if records.lines is None:
        used = raw.rows
    else:
        used = [rows[number] for number in records.lines.tolist()]
    return Subject(raw, records, used, _is_test(raw, records), faults)


def _is_test(raw: RawList, records: Records) -> np.ndarray | None:
    """Which rows of a csv are to test with, where it has rows of both splits; else None."""
    if raw.kind != "csv":
        return None
    columns = parse_csv(raw.file, "test", Problems())
    lines = [] if columns is None else columns["lines"]
    is_test = np.isin(records.lines, lines)
    return is_test if is_test.any() and not is_test.all() else None


def rows_in_table(records: Records, table: EmbeddingTable, file: str) -> np.ndarray:
    """Where each of a list's rows stands in a table of embeddings, (N,), by path and box.

    Raises InputError where some do not.
    """
    stands: dict[str, int] = {}
    for row, path in enumerate(table.records.paths.tolist()):
        stands.setdefault(item_name(path, table.records.box_of(row)), row)
    found = np.full(len(records), -1)
    for row, path in enumerate(records.paths.tolist()):
        found[row] = stands.get(item_name(path, records.box_of(row)), -1)
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise InputError(
            f"{file!r} has no embedding of {len(missing)} of {counted(len(records), 'row')} "
            f"({records.location(missing[0])}, for one); leave --embeddings out to have them made"
        )
    return found
