"""Lists as csv, by the names of their columns."""

import csv
import math
import re
from pathlib import Path

import numpy as np

from core.errors import meant_by
from core.numerals import is_plain_int64, read_float
from data.formats.columns import tell_unknown
from data.formats.problems import NO_ROW, SPLITS, Problems, echo, not_empty
from data.vocabulary import as_labels

CSV_REQUIRED = ["label", "path", "split"]
CSV_BOX = ["x_1", "y_1", "x_2", "y_2"]
CSV_FLAGS = ["is_query", "is_gallery"]
CSV_OPTIONAL = ["category", "sequence", *CSV_FLAGS, *CSV_BOX]
DELIMITERS = ",;\t"
BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def parse_csv(file: Path, split: str | None, faults: Problems) -> dict | None:
    with open(file, newline="", encoding="utf-8-sig") as stream:
        delimiter, skipped = _delimiter(stream)
        # After a delimiter blanks are no part of a value, as in `label, path, split`.
        table = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True)
        try:
            table.fieldnames = [name.strip() for name in table.fieldnames or []]
            columns = _csv_columns(table.fieldnames, split, faults)
            if columns is None:
                return None
            before = len(faults)
            all_plain = True
            for row in table:
                # Of every row, whatever its split: train and test labels of one file are of one kind.
                all_plain = all_plain and is_plain_int64((row["label"] or "0").strip())
                _take_row(row, skipped + table.line_num, table.fieldnames, split, columns, faults)
        except csv.Error as error:
            faults.say(skipped + table.reader.line_num, f"not csv: {error}")
            return None
    if not columns["lines"] and len(faults) > before:
        return None
    columns["labels"] = as_labels(columns["labels"], all_plain)
    nothing = f"{NO_ROW} {SPLITS[split]}" if split else "no row in it"
    return not_empty(columns, nothing, faults)


def _delimiter(stream) -> tuple[str, int]:
    """Which of DELIMITERS the header line has most of, and how many lines stand before it; the stream is there then.

    A first line `sep=;`, as spreadsheets write it, is passed over.
    """
    start, skipped = stream.tell(), 0
    header = stream.readline()
    if re.fullmatch(r"sep=.", header.strip()):
        start, skipped = stream.tell(), 1
        header = stream.readline()
    stream.seek(start)
    return max(DELIMITERS, key=header.count), skipped


def _csv_columns(header: list[str], split: str | None, faults: Problems) -> dict | None:
    """Empty columns for what a csv's header promises, {name: list}; None, and `faults` told, where that cannot be."""
    before = len(faults)
    for column in CSV_REQUIRED:
        if column not in header:
            faults.say(1, f"no column {column!r} in {echo(header)}.{meant_by(column, header)}")
    twice = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if twice:
        faults.say(1, f"the column {echo(twice[0])} comes twice")
    unused = tell_unknown(header, CSV_REQUIRED, CSV_OPTIONAL, lambda sentence: faults.say(1, sentence))
    absent = [column for column in CSV_BOX if column not in header]
    if 0 < len(absent) < len(CSV_BOX):
        faults.say(1, f"a box needs {', '.join(CSV_BOX)}; there is no {', '.join(absent)}")
    if len(faults) > before:
        return None
    if unused:
        faults.notes.append(f"columns that are not used: {', '.join(map(echo, unused))}")
    if split != "train" and 0 < sum(flag in header for flag in CSV_FLAGS) < 2:
        there, missing = sorted(CSV_FLAGS, key=header.__contains__, reverse=True)
        role = "in the gallery" if missing == "is_gallery" else "a query"
        faults.notes.append(f"it has {there} but no {missing}: every validation row is {role}")
    optional = {"categories": "category" in header, "sequences": "sequence" in header, "boxes": not absent}
    # Where rows of both splits are taken together, those to train with are neither query nor gallery.
    optional |= {name: split is None or split == "test" and name in header for name in CSV_FLAGS}
    names = ("lines", "paths", "labels", *(name for name, is_there in optional.items() if is_there))
    return {name: [] for name in names}


def _take_row(row: dict, number: int, header: list[str], split: str | None, columns: dict, faults: Problems):
    """Append a csv's row to `columns` if it is of the split and right."""
    if None in row.values() or None in row:
        got = sum(value is not None for value in row.values()) if None not in row else len(header) + len(row[None])
        faults.say(number, f"expected {len(header)} columns ({echo(', '.join(header), str)}), got {got}")
        return
    own_split = row["split"].strip()
    if own_split not in SPLITS.values():
        faults.say(number, f"split is {echo(row['split'])}, expected train or validation")
        return
    if split is not None and own_split != SPLITS[split]:
        return
    before = len(faults)
    values = {"lines": number, "paths": row["path"], "labels": row["label"].strip()}
    if not values["labels"]:
        faults.say(number, "label is empty")
    for name, column in (("categories", "category"), ("sequences", "sequence")):
        values[name] = row.get(column)
    if "boxes" in columns:
        values["boxes"] = _box(row, number, faults)
    for name in CSV_FLAGS:
        if name in columns:
            is_asked = own_split == SPLITS["test"]
            values[name] = is_asked and (name not in header or _boolean(row[name], name, number, faults))
    if len(faults) == before:
        for name, column in columns.items():
            column.append(values[name])


def _boolean(text: str, column: str, number: int, faults: Problems) -> bool | None:
    text = text.strip()
    if text.lower() not in BOOLEANS:
        faults.say(number, f"{column} is {echo(text)}, expected True or False")
    return BOOLEANS.get(text.lower())


def _box(row: dict, number: int, faults: Problems) -> list[float] | None:
    texts = [row[column].strip() or "nan" for column in CSV_BOX]
    try:
        left, top, right, bottom = box = [read_float(text) for text in texts]
    except ValueError:
        faults.say(number, f"box {echo(texts)} is not four numbers ({', '.join(CSV_BOX)})")
        return None
    if np.isnan(box).all():
        return box
    if not (0 <= left < right < math.inf and 0 <= top < bottom < math.inf):
        faults.say(number, f"box {box} is not left < right, top < bottom (all empty: no box)")
    elif max(box) <= 1:
        faults.say(number, f"box {box} seems to be in fractions of the image; boxes are in pixels")
    elif int(left) == int(right) or int(top) == int(bottom):
        faults.say(number, f"box {box} holds no whole pixel")
    return box
