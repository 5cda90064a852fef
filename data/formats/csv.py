"""Lists as csv, by the names of their columns."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from core.errors import InputError, meant_by
from core.items import clip_item, is_clip, start_of, text_item
from core.numerals import is_plain_int64, read_float
from core.text import counted
from data.formats.columns import tell_unknown
from data.formats.problems import Problems, echo, not_empty
from data.vocabulary import as_labels

SPLITS = {"train": "train", "test": "validation"}  # our name of a split: what a csv calls it
NO_ROW = "no row in it has the split"
CSV_REQUIRED = ["label", "path", "split"]
CSV_TEXT = "text"  # stands in the place of path; of a row that has both, the file counts
CSV_BOX = ["x_1", "y_1", "x_2", "y_2"]
CSV_FLAGS = ["is_query", "is_gallery"]
CSV_START = "start_time"  # seconds, of a clip that is a part of its file
CSV_OPTIONAL = [CSV_TEXT, "category", "sequence", CSV_START, *CSV_FLAGS, *CSV_BOX]
TEXT_NOT_USED = "of a row that has a path, the text is not used"
LONGEST_TEXT = 20_000  # characters
DELIMITERS = ",;\t"
BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def parse_csv(file: Path, split: str | None, problems: Problems) -> dict[str, list] | None:
    """The columns of a csv's rows of `split`; None for all rows (see `data.formats.parse`)."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        table, skipped = open_table(stream)
        try:
            columns = empty_columns(read_header(table), split, problems)
            if columns is None:
                return None
            before = len(problems)
            all_plain = True
            for row in table:
                # Of every row, whatever its split: train and test labels of one file are of one kind.
                all_plain = all_plain and is_plain_int64((row["label"] or "0").strip())
                add_row(row, skipped + table.line_num, table.fieldnames, split, columns, problems)
        except csv.Error as error:
            problems.add(skipped + table.reader.line_num, f"not csv: {error}")
            return None

    # Where all rows are wrong, that none is left is not worth a sentence of its own.
    if not columns["lines"] and len(problems) > before:
        return None
    columns["labels"] = as_labels(columns["labels"], all_plain)
    nothing = f"{NO_ROW} {SPLITS[split]}" if split else "no row in it"
    return not_empty(columns, nothing, problems)


def open_table(stream: TextIO, skips_blanks: bool = True) -> tuple[csv.DictReader, int]:
    """(a reader of a csv's rows, whatever its delimiter; how many lines stand before its header).

    skips_blanks: after a delimiter blanks are no part of a value, as in `label, path, split`.
    """
    delimiter, skipped = find_delimiter(stream)
    return csv.DictReader(stream, delimiter=delimiter, skipinitialspace=skips_blanks), skipped


def read_header(table: csv.DictReader) -> list[str]:
    """The names of a csv's columns, without blanks around them; its rows go by these from now on. Raises csv.Error."""
    table.fieldnames = [name.strip() for name in table.fieldnames or []]
    return table.fieldnames


def rows_of_edited(
    file: str | Path, needed: Sequence[str], sentence: Callable[[list[str], list[str]], str]
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line, cells) of each row of a csv that this program wrote and people edit.

    sentence: of the `needed` columns that are missing and all that are there, what to say. Raises InputError with it,
    OSError and csv.Error.
    """
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        table, skipped = open_table(stream, skips_blanks=False)
        header = read_header(table)
        missing = [name for name in needed if name not in header]
        if missing:
            raise InputError(sentence(missing, header))
        for cells in table:
            yield skipped + table.line_num, cells


def find_delimiter(stream: TextIO) -> tuple[str, int]:
    """Which of DELIMITERS the header line has most of, and how many lines stand before it; the stream is there then.

    A first line `sep=;`, as spreadsheets write it, is passed over.
    """
    start = stream.tell()
    skipped = 0
    header = stream.readline()
    if re.fullmatch(r"sep=.", header.strip()):
        start = stream.tell()
        skipped = 1
        header = stream.readline()
    stream.seek(start)
    return max(DELIMITERS, key=header.count), skipped


def empty_columns(header: list[str], split: str | None, problems: Problems) -> dict[str, list] | None:
    """Empty columns for what a csv's header promises, {name: list}; None where that cannot be, as `problems` says."""
    before = len(problems)
    for column in CSV_REQUIRED:
        if column == "path" and CSV_TEXT in header:
            continue
        if column not in header:
            problems.add(1, f"no column {column!r} in {echo(header)}.{meant_by(column, header)}")
    repeated = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if repeated:
        problems.add(1, f"the column {echo(repeated[0])} comes twice")
    unused = tell_unknown(header, CSV_REQUIRED, CSV_OPTIONAL, lambda sentence: problems.add(1, sentence))
    # Some of its columns alone make no box.
    absent = [column for column in CSV_BOX if column not in header]
    if 0 < len(absent) < len(CSV_BOX):
        problems.add(1, f"a box needs {', '.join(CSV_BOX)}; there is no {', '.join(absent)}")
    if len(problems) > before:
        return None

    if CSV_TEXT in header and "path" in header:
        problems.note(TEXT_NOT_USED)
    if unused:
        problems.note(f"columns that are not used: {', '.join(map(echo, unused))}")
    if split != "train":
        _note_missing_flag(header, problems)

    names = ["lines", "paths", "labels"]
    if "category" in header:
        names.append("categories")
    if "sequence" in header:
        names.append("sequences")
    if CSV_TEXT in header and "path" in header:
        names.append("texts")
    if not absent:
        names.append("boxes")
    for flag in CSV_FLAGS:
        # Where rows of both splits are taken together, those to train with are neither query nor gallery.
        if split is None or (split == "test" and flag in header):
            names.append(flag)
    return {name: [] for name in names}


def _note_missing_flag(header: list[str], problems: Problems) -> None:
    """Note that one of is_query and is_gallery stands in a header without the other, if that is so."""
    given = [flag for flag in CSV_FLAGS if flag in header]
    if given == ["is_query"]:
        problems.note("it has is_query but no is_gallery: every validation row is in the gallery")
    elif given == ["is_gallery"]:
        problems.note("it has is_gallery but no is_query: every validation row is a query")


def add_row(
    row: dict[str, str],
    number: int,
    header: list[str],
    split: str | None,
    columns: dict[str, list],
    problems: Problems,
) -> None:
    """Append a csv's row to `columns` if it is of the split and nothing is wrong in it."""
    # csv.DictReader gathers superfluous values under the key None, and fills missing ones in with None.
    superfluous = row.get(None, [])
    missing = sum(value is None for value in row.values())
    if superfluous or missing:
        width = len(header) + len(superfluous) - missing
        problems.add(number, f"expected {counted(len(header), 'column')} ({echo(', '.join(header), str)}), got {width}")
        return
    row_split = row["split"].strip()
    if row_split not in SPLITS.values():
        problems.add(number, f"split is {echo(row['split'])}, expected train or validation")
        return
    if split is not None and row_split != SPLITS[split]:
        return

    before = len(problems)
    values = {"lines": number, "paths": _path_or_text(row, number, problems), "labels": row["label"].strip()}
    if not values["labels"]:
        problems.add(number, "label is empty")
    # Of a row that is a pair; one that is a text has it where an image has its path.
    values["texts"] = ""
    if "texts" in columns and row["path"].strip():
        values["texts"] = _text(row, number, problems)
    values["categories"] = row.get("category")
    values["sequences"] = row.get("sequence")
    if "boxes" in columns:
        values["boxes"] = _box(row, number, problems)
    for flag in CSV_FLAGS:
        if flag not in columns:
            continue
        # A row to train with has no role; one to test with has both, unless a flag says otherwise.
        values[flag] = row_split == SPLITS["test"]
        if values[flag] and flag in header:
            values[flag] = _boolean(row[flag], flag, number, problems)
    if len(problems) == before:
        for name, column in columns.items():
            column.append(values[name])


def _path_or_text(row: dict[str, str], number: int, problems: Problems) -> str:
    """The path of a row's file, or its text in the place of one; what is wrong with them is a problem."""
    if CSV_TEXT not in row:
        return _with_start(row["path"], row, number, problems)
    path = row.get("path", "")
    if path.strip():
        return _with_start(path, row, number, problems)
    text = _text(row, number, problems)
    if not text:
        problems.add(number, "both text and path are empty" if "path" in row else "text is empty")
    return text_item(text)


def _text(row: dict[str, str], number: int, problems: Problems) -> str:
    """The text of a row, which may be empty; one that is too long is a problem."""
    text = row[CSV_TEXT].strip()
    # A column of text in memory is as wide as its longest value.
    if len(text) > LONGEST_TEXT or "\0" in text:
        what = (
            "a NUL character" if "\0" in text else f"{counted(len(text), 'character', ',')}, more than {LONGEST_TEXT:,}"
        )
        problems.add(number, f"the text {echo(text)} has {what}")
    return text


def _with_start(path: str, row: dict[str, str], number: int, problems: Problems) -> str:
    """The path of a row, with the start_time of a clip; what is wrong with that is a problem. Images have none."""
    text = row.get(CSV_START, "").strip()
    if not text or not is_clip(path):
        return path
    if start_of(path) is not None:
        problems.add(number, f"the path {echo(path)} says where it starts, and so does start_time")
        return path
    try:
        start = read_float(text)
    except ValueError:
        start = -1.0
    # Tables write a cell that is left open as nan.
    if math.isnan(start):
        return path
    if not 0 <= start < math.inf:
        problems.add(number, f"start_time is {echo(text)}, expected seconds of 0 or more")
        return path
    return clip_item(path, start)


def _boolean(text: str, column: str, number: int, problems: Problems) -> bool | None:
    """The value of a flag; None for anything that is none, which is a problem."""
    text = text.strip()
    if text.lower() not in BOOLEANS:
        problems.add(number, f"{column} is {echo(text)}, expected True or False")
    return BOOLEANS.get(text.lower())


def _box(row: dict[str, str], number: int, problems: Problems) -> list[float] | None:
    """The box of a row [left, top, right, bottom], all NaN for none; what is wrong with it is a problem."""
    # Empty cells are no numbers, so that a box of nothing but these is none.
    texts = [row[column].strip() or "nan" for column in CSV_BOX]
    try:
        left, top, right, bottom = box = [read_float(text) for text in texts]
    except ValueError:
        problems.add(number, f"box {echo(texts)} is not four numbers ({', '.join(CSV_BOX)})")
        return None
    if np.isnan(box).all():
        return box
    if not (0 <= left < right < math.inf and 0 <= top < bottom < math.inf):
        problems.add(number, f"box {box} is not left < right, top < bottom (all empty: no box)")
    elif max(box) <= 1:
        problems.add(number, f"box {box} seems to be in fractions of the image; boxes are in pixels")
    elif int(left) == int(right) or int(top) == int(bottom):
        problems.add(number, f"box {box} holds no whole pixel")
    return box
