"""The text of lists, SOP's and csv, to columns: every row that is right, and all that is wrong, by its line."""

import csv
import math

import numpy as np

from errors import near_match

SOP_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
CSV_REQUIRED = ["label", "path", "split"]
CSV_BOX = ["x_1", "y_1", "x_2", "y_2"]
BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
SPLITS = {"train": "train", "test": "validation"}  # how a csv calls them
NO_ROW = "no row in it has the split"
LONGEST_ECHO = 100  # characters of a wrong value or line that are shown


class Faults(list):
    """What is wrong with one list: (line, sentence), line 0 where it is about the list as a whole."""

    def say(self, line, sentence):
        self.append((line, sentence))

    def told(self, source):
        """The sentences in the order of their lines, each behind `source` and its line."""
        return [f"{source}:{line}: {text}" if line else f"{source}: {text}" for line, text in sorted(self, key=_line)]


def parse(file, split, faults):
    """The columns of list `file` for `split` ("train" or "test"), {name: list}, rows in their order.

    `lines`, `paths` (as they are written) and `labels` are always there; `categories`, `sequences`, `boxes`,
    `is_query` and `is_gallery` where the list has them. Rows in which something is wrong are left out, and `faults`, a
    Faults, is told. None where the whole cannot be read.
    """
    try:
        return (_parse_csv if file.suffix == ".csv" else _parse_sop)(file, split, faults)
    except UnicodeDecodeError as error:
        faults.say(0, f"not a list, nor any text in UTF-8: {error.reason} at byte {error.start}")
    except OSError as error:
        faults.say(0, f"cannot be read: {error.strerror}")
    return None


def _line(fault):
    return fault[0]


def _parse_sop(file, split, faults):
    columns = {"lines": [], "paths": [], "labels": [], "categories": []}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        words = line.split(maxsplit=3)
        if not words or words == SOP_COLUMNS:
            continue
        if len(words) != 4:
            expected = f"expected 4 columns ({' '.join(SOP_COLUMNS)})"
            faults.say(number, f"{expected}, got {len(words)}: {_echo(line)}")
            continue
        label = _integer(words[1], "class_id", number, faults)
        if label is not None:
            for name, value in zip(columns, (number, words[3].strip(), label, words[2])):
                columns[name].append(value)
    return _not_empty(columns, "no image in it", faults)


def _parse_csv(file, split, faults):
    with open(file, newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        try:
            header = table.fieldnames or []
            columns = _csv_columns(header, split, faults)
            before = len(faults)
            for row in table if columns else ():
                _take_row(row, table.line_num, header, SPLITS[split], columns, faults)
        except csv.Error as error:
            faults.say(table.reader.line_num, f"not csv: {error}")
            return None
    if columns is None or not columns["lines"] and len(faults) > before:
        return None
    return _not_empty(columns, f"{NO_ROW} {SPLITS[split]}", faults)


def _csv_columns(header, split, faults):
    """Empty columns for what a csv's header promises, {name: list}; None, and `faults` told, where that cannot be."""
    missing = [column for column in CSV_REQUIRED if column not in header]
    for column in missing:
        faults.say(1, f"no column {column!r} in {_echo(header)}.{near_match(column, header)}")
    twice = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if twice:
        faults.say(1, f"the column {_echo(twice[0])} comes twice")
    absent = [column for column in CSV_BOX if column not in header]
    if 0 < len(absent) < len(CSV_BOX):
        faults.say(1, f"a box needs {', '.join(CSV_BOX)}; there is no {', '.join(absent)}")
    if missing or twice or 0 < len(absent) < len(CSV_BOX):
        return None
    optional = {"categories": "category" in header, "sequences": "sequence" in header, "boxes": not absent}
    optional |= {name: split == "test" and name in header for name in ("is_query", "is_gallery")}
    names = ("lines", "paths", "labels", *(name for name, is_there in optional.items() if is_there))
    return {name: [] for name in names}


def _take_row(row, number, header, wanted, columns, faults):
    """Append a csv's row to `columns` if it is of the split `wanted` and right."""
    if None in row.values() or None in row:
        got = sum(value is not None for value in row.values()) if None not in row else len(header) + len(row[None])
        faults.say(number, f"expected {len(header)} columns ({_echo(', '.join(header), str)}), got {got}")
        return
    if row["split"] not in SPLITS.values():
        faults.say(number, f"split is {_echo(row['split'])}, expected train or validation")
        return
    if row["split"] != wanted:
        return
    before = len(faults)
    values = {"lines": number, "paths": row["path"], "labels": _integer(row["label"], "label", number, faults)}
    for name, column in (("categories", "category"), ("sequences", "sequence")):
        values[name] = row.get(column)
    if "boxes" in columns:
        values["boxes"] = _box(row, number, faults)
    for name in ("is_query", "is_gallery"):
        if name in columns:
            values[name] = _boolean(row[name], name, number, faults)
    if len(faults) == before:
        for name, column in columns.items():
            column.append(values[name])


def _not_empty(columns, sentence, faults):
    if not columns["lines"] and not faults:
        faults.say(0, sentence)
    return columns if columns["lines"] else None


def _integer(text, column, number, faults):
    """The label in `text`; None, and `faults` told, where it is none of 64 bits."""
    try:
        value = int(text)
    except ValueError:  # also for thousands of digits
        value = math.inf
    if -(2**63) <= value < 2**63:
        return value
    faults.say(number, f"{column} is {_echo(text)}, expected an integer{' of 64 bits' if value != math.inf else ''}")
    return None


def _boolean(text, column, number, faults):
    if text.lower() not in BOOLEANS:
        faults.say(number, f"{column} is {_echo(text)}, expected True or False")
    return BOOLEANS.get(text.lower())


def _box(row, number, faults):
    texts = [row[column] or "nan" for column in CSV_BOX]
    try:
        left, top, right, bottom = box = [float(text) for text in texts]
    except ValueError:
        faults.say(number, f"box {_echo(texts)} is not four numbers ({', '.join(CSV_BOX)})")
        return None
    if not np.isnan(box).all() and not (0 <= left < right < np.inf and 0 <= top < bottom < np.inf):
        faults.say(number, f"box {box} is not left < right, top < bottom (all empty: no box)")
    return box


def _echo(value, form=repr):
    """What a list holds, as it may be shown: on one line, and not for ever."""
    text = form(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."
