"""The text of lists, SOP's and csv, to columns: every row that is right, and all that is wrong, by its line."""

import csv
import difflib
import math
import re
from pathlib import Path

import numpy as np

from errors import meant_by
from numerals import is_plain_int64, read_float
from vocabulary import as_labels

SOP_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
CSV_REQUIRED = ["label", "path", "split"]
CSV_BOX = ["x_1", "y_1", "x_2", "y_2"]
CSV_FLAGS = ["is_query", "is_gallery"]
CSV_OPTIONAL = ["category", "sequence", *CSV_FLAGS, *CSV_BOX]
DELIMITERS = ",;\t"
BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
SPLITS = {"train": "train", "test": "validation"}  # how a csv calls them; None stands for both
NO_ROW = "no row in it has the split"
LONGEST_ECHO = 100  # characters of a wrong value or line that are shown
ALIKE = 0.8  # of difflib: a column this close to a known one is a mistyped one


class Faults(list):
    """What is wrong with one list: (line, sentence), line 0 where it is about the list as a whole.

    notes: sentences on what the list can do with, but should be known.
    """

    def __init__(self):
        super().__init__()
        self.notes = []

    def say(self, line: int, sentence: str):
        self.append((line, sentence))

    def told(self, source) -> list[str]:
        """The sentences in the order of their lines, each behind `source` and its line."""
        return [f"{source}:{line}: {text}" if line else f"{source}: {text}" for line, text in sorted(self, key=_line)]

    def noted(self, source) -> list[str]:
        return [f"{source}: {text}" for text in self.notes]


def parse(file: Path, split: str | None, faults: Faults) -> dict | None:
    """The columns of list `file` for `split` ("train", "test", or None for all rows), {name: list}, rows in order.

    `lines`, `paths` (as they are written) and `labels` (an array: integers if all labels of the file are plain ones,
    else strings) are always there; `categories`, `sequences`, `boxes`, `is_query` and `is_gallery` where the list has
    them. Rows in which something is wrong are left out, and `faults` is told. None where the whole cannot be read.
    """
    try:
        return (_parse_csv if file.suffix.lower() == ".csv" else _parse_sop)(file, split, faults)
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16, save it as UTF-8" if _is_utf16(file) else ""
        faults.say(0, f"not a list, nor any text in UTF-8: {error.reason} at byte {error.start}{hint}")
    except OSError as error:
        faults.say(0, f"cannot be read: {error.strerror}")
    return None


def _line(fault):
    return fault[0]


def _is_utf16(file: Path) -> bool:
    return file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")


def _parse_sop(file: Path, split: str | None, faults: Faults) -> dict | None:
    columns = {"lines": [], "paths": [], "labels": [], "categories": []}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        words = line.split(maxsplit=3)
        if not words or words == SOP_COLUMNS:
            continue
        if len(words) != 4:
            expected = f"expected 4 columns ({' '.join(SOP_COLUMNS)})"
            faults.say(number, f"{expected}, got {len(words)}: {_echo(line)}")
            continue
        columns["lines"].append(number)
        columns["paths"].append(words[3].strip())
        columns["labels"].append(words[1])
        columns["categories"].append(words[2])
    columns["labels"] = as_labels(columns["labels"])
    return _not_empty(columns, "no image in it", faults)


def _parse_csv(file: Path, split: str | None, faults: Faults) -> dict | None:
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
    return _not_empty(columns, nothing, faults)


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


def _csv_columns(header: list[str], split: str | None, faults: Faults) -> dict | None:
    """Empty columns for what a csv's header promises, {name: list}; None, and `faults` told, where that cannot be."""
    before = len(faults)
    for column in CSV_REQUIRED:
        if column not in header:
            faults.say(1, f"no column {column!r} in {_echo(header)}.{meant_by(column, header)}")
    twice = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if twice:
        faults.say(1, f"the column {_echo(twice[0])} comes twice")
    unused = tell_unknown(header, CSV_REQUIRED, CSV_OPTIONAL, lambda sentence: faults.say(1, sentence))
    absent = [column for column in CSV_BOX if column not in header]
    if 0 < len(absent) < len(CSV_BOX):
        faults.say(1, f"a box needs {', '.join(CSV_BOX)}; there is no {', '.join(absent)}")
    if len(faults) > before:
        return None
    if unused:
        faults.notes.append(f"columns that are not used: {', '.join(map(_echo, unused))}")
    if split != "train" and 0 < sum(flag in header for flag in CSV_FLAGS) < 2:
        there, missing = sorted(CSV_FLAGS, key=header.__contains__, reverse=True)
        role = "in the gallery" if missing == "is_gallery" else "a query"
        faults.notes.append(f"it has {there} but no {missing}: every validation row is {role}")
    optional = {"categories": "category" in header, "sequences": "sequence" in header, "boxes": not absent}
    # Where rows of both splits are taken together, those to train with are neither query nor gallery.
    optional |= {name: split is None or split == "test" and name in header for name in CSV_FLAGS}
    names = ("lines", "paths", "labels", *(name for name, is_there in optional.items() if is_there))
    return {name: [] for name in names}


def tell_unknown(given: list[str], required: list[str], optional: list[str], tell) -> list[str]:
    """Columns of `given` that are not known; `tell` gets a sentence for each that seems a mistyped optional one.

    Those are not in what is returned. A mistyped column would else be ignored, and what it says with it.
    """
    unused = []
    absent = [name for name in optional if name not in given]
    for column in given:
        if column in required or column in optional or not column:
            continue
        meant = next((name for name in absent if _is_mistyped(column, name)), None)
        if meant:
            tell(f"the column {column!r} is not known; if {meant!r} is meant, rename it")
        else:
            unused.append(column)
    return unused


def _is_mistyped(column: str, known: str) -> bool:
    """Whether a column differs from a known one by case, signs, an `is`, a plural, or a letter or two."""
    written, meant = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (column, known))
    bare = {name.removeprefix("is").removesuffix("s") for name in (written, meant)}
    return len(bare) == 1 or difflib.SequenceMatcher(None, written, meant).ratio() >= ALIKE


def _take_row(row: dict, number: int, header: list[str], split: str | None, columns: dict, faults: Faults):
    """Append a csv's row to `columns` if it is of the split and right."""
    if None in row.values() or None in row:
        got = sum(value is not None for value in row.values()) if None not in row else len(header) + len(row[None])
        faults.say(number, f"expected {len(header)} columns ({_echo(', '.join(header), str)}), got {got}")
        return
    own_split = row["split"].strip()
    if own_split not in SPLITS.values():
        faults.say(number, f"split is {_echo(row['split'])}, expected train or validation")
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


def _not_empty(columns: dict, sentence: str, faults: Faults) -> dict | None:
    if not columns["lines"] and not faults:
        faults.say(0, sentence)
    return columns if columns["lines"] else None


def _boolean(text: str, column: str, number: int, faults: Faults) -> bool | None:
    text = text.strip()
    if text.lower() not in BOOLEANS:
        faults.say(number, f"{column} is {_echo(text)}, expected True or False")
    return BOOLEANS.get(text.lower())


def _box(row: dict, number: int, faults: Faults) -> list[float] | None:
    texts = [row[column].strip() or "nan" for column in CSV_BOX]
    try:
        left, top, right, bottom = box = [read_float(text) for text in texts]
    except ValueError:
        faults.say(number, f"box {_echo(texts)} is not four numbers ({', '.join(CSV_BOX)})")
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


def _echo(value, form=repr) -> str:
    """What a list holds, as it may be shown: on one line, and not for ever."""
    text = form(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."
