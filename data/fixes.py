"""Findings on rows of a list as a csv that a person edits, and the list that its actions make of the old one.

A list is mended as it is written: of its rows only what an action names is changed, and the new list is of the kind of
the old one. A folder per label, which is no file, becomes a csv.
"""

import csv
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, near_match
from core.files import make_folder, replacing
from core.numerals import read_float, read_int
from data.formats.archives import archives_of
from data.formats.csv import CSV_BOX, CSV_FLAGS, CSV_TEXT, SPLITS, open_table, read_header, rows_of_edited
from data.formats.folders import label_folders
from data.formats.problems import Problems, echo, first_faults
from data.formats.sop import SOP_COLUMNS
from data.lists import find_list
from data.stored import is_stored_list

# What can be found, in the order in which it is shown.
KINDS = ("unreadable", "label", "duplicate", "leak", "box", "outlier", "single")
COLUMNS = ("row", "path", "label", "kind", "evidence", "action", "confidence")
NEEDED = ("row", "path", "action")
KEEP, REMOVE, LABEL, BOX = "keep", "remove", "label=", "box="
MOVED = "split"  # what becomes of a row whose new label is one of the other split; nobody asks for it
NO_BOX = "none"
ACTIONS = f"{KEEP}, {REMOVE}, {LABEL}NAME, {BOX}LEFT,TOP,RIGHT,BOTTOM or {BOX}{NO_BOX}"
ESCAPED = "surrogateescape"  # a path need not be UTF-8


@dataclass(frozen=True)
class Finding:
    """What was found on one row of a list.

    row: its line, or of a folder its number, from 1 on. path, label: as the list writes them. kind: one of KINDS.
    evidence: a sentence. action: what should be done with the row, one of ACTIONS. confidence: from 0 to 1, that the
    row is what its kind says. index, other, others, peer: where the row, the one that it is held against and one of its
    label stand in memory, for who shows them; `others` is whether the second is in the other list.
    """

    row: int
    path: str
    label: str
    kind: str
    evidence: str
    action: str
    confidence: float
    index: int | None = None
    other: int | None = None
    others: bool = False
    peer: int | None = None


@dataclass(frozen=True)
class RawRow:
    """A row as it is written: its line (of a folder its number), its cells by column, and of an SOP list its text.

    more: cells of a csv behind those that its header names.
    """

    number: int
    cells: dict[str, str]
    text: str = ""
    more: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path, or of a row that has none its text."""
        return self.cells.get("path") or self.cells.get(CSV_TEXT, "")


@dataclass(frozen=True)
class RawList:
    """A list as it is written: its kind (csv, sop or folder), the folder that its paths start from, columns, rows."""

    kind: str
    file: Path
    folder: Path
    header: list[str]
    rows: list[RawRow]

    @property
    def suffix(self) -> str:
        """How a list of this kind ends, as a file."""
        return self.file.suffix if self.kind == "sop" else ".csv"


def read_raw_list(path: str | Path, data_dir: str | Path | None, split: str = "train") -> RawList:
    """A list with all that is wrong in it, row by row.

    split: what the rows of a folder are written as. Raises InputError where it is nowhere or is no list.
    """
    file, folder = find_list(path, data_dir)
    if file is None:
        raise InputError(f"no list {str(path)!r}, neither in {str(folder)!r} nor from here")
    if archives_of(file) or is_stored_list(file):
        raise InputError(f"{str(file)!r} cannot be mended row by row; a csv, an SOP list or a folder per label can")
    if file.is_dir():
        return _raw_folder(file, split)
    try:
        if file.suffix.lower() == ".csv":
            return _raw_csv(file, folder)
        return _raw_sop(file, folder)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{str(file)!r} is no list that can be read: {error}") from None


def _raw_csv(file: Path, folder: Path) -> RawList:
    with open(file, newline="", encoding="utf-8-sig") as stream:
        table, skipped = open_table(stream)
        header = read_header(table)
        rows = []
        for cells in table:
            # csv.DictReader gathers superfluous values under the key None, and fills missing ones in with None.
            more = tuple(cells.pop(None, ()))
            texts = {name: value or "" for name, value in cells.items()}
            rows.append(RawRow(skipped + table.line_num, texts, more=more))
        return RawList("csv", file, folder, header, rows)


def _raw_sop(file: Path, folder: Path) -> RawList:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        words = line.split(maxsplit=3)
        cells = {}
        if len(words) == 4 and words != SOP_COLUMNS:
            cells = {"label": words[1], "path": words[3].strip()}
        rows.append(RawRow(number, cells, line))
    return RawList("sop", file, folder, SOP_COLUMNS, rows)


def _raw_folder(folder: Path, split: str) -> RawList:
    columns, _ = label_folders(folder)
    rows = []
    for number, (path, label) in enumerate(zip(columns["paths"], columns["labels"]), start=1):
        cells = {"label": label, "path": os.path.relpath(path, folder), "split": split}
        rows.append(RawRow(number, cells))
    return RawList("folder", folder, folder, ["label", "path", "split"], rows)


def write_fixes(file: str | Path, findings: Iterable[Finding]) -> None:
    """Write findings as a csv, a line each, whole or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in findings:
        cells = (finding.row, finding.path, finding.label, finding.kind, finding.evidence, finding.action)
        writer.writerow((*cells, f"{finding.confidence:.2f}"))
    with replacing(file) as output:
        output.write(stream.getvalue().encode(errors=ESCAPED))


def fix_command(file: Path, folder: Path, suffix: str, fixes: str | Path) -> str:
    """The line that makes a clean list of one and its fixes, beside it; suffix: how a list of its kind ends."""
    words = [
        "python",
        "reader.py",
        "fix",
        str(file),
        f"--fixes={fixes}",
        f"--output={file.with_name(f'clean{suffix}')}",
    ]
    return shlex.join(words + folder_words(file, folder))


def folder_words(file: Path, folder: Path) -> list[str]:
    """The flag that says where a list's paths start from, if that is not where it lies."""
    return [] if folder in (file.parent, file) else [f"--data_dir={folder}"]


@dataclass(frozen=True)
class Fix:
    """What a line of a fixes.csv wants done with a row; line: where it stands there. box: its four texts."""

    line: int
    row: int
    path: str
    action: str
    label: str = ""
    box: tuple[str, ...] = ()


def read_fixes(file: str | Path) -> list[Fix]:
    """The actions of a fixes.csv, those that keep a row as it is left out.

    Raises InputError for what is no such file, and one for all lines that are wrong.
    """

    def missing_columns(missing: list[str], _: list[str]) -> str:
        written = f"`python reader.py doctor LIST` writes a file with {', '.join(COLUMNS)}"
        return f"{str(file)!r} has no column {missing[0]!r}; {written}"

    problems = Problems()
    fixes = []
    try:
        for line, cells in rows_of_edited(file, NEEDED, missing_columns):
            fix = _read_fix(cells, line, problems)
            if fix is not None:
                fixes.append(fix)
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {str(file)!r}: {getattr(error, 'strerror', None) or error}") from None
    _refuse(problems, file)
    return fixes


def _read_fix(cells: dict[str, str | None], line: int, problems: Problems) -> Fix | None:
    """The Fix of one line; None where nothing is to be done, or where it is wrong, as `problems` says then."""
    action = (cells["action"] or "").strip()
    if action in ("", KEEP):
        return None
    try:
        row = read_int(cells["row"] or "")
    except ValueError:
        problems.add(line, f"row is {echo(cells['row'])}, expected the number of a row")
        return None
    path = cells["path"] or ""
    if action == REMOVE:
        return Fix(line, row, path, REMOVE)
    if action.startswith(LABEL) and action[len(LABEL) :].strip():
        return Fix(line, row, path, LABEL, label=action[len(LABEL) :].strip())
    if action.startswith(BOX):
        box = _read_box(action[len(BOX) :])
        if box is not None:
            return Fix(line, row, path, BOX, box=box)
    word = re.match(r"\w*=?", action)[0]
    hint = near_match(word, [KEEP, REMOVE, LABEL, BOX])
    problems.add(line, f"action is {echo(action)}, expected {ACTIONS}.{hint}")
    return None


def _read_box(text: str) -> tuple[str, ...] | None:
    """The four texts of a box, all empty for none; None for what is no box."""
    if text.strip() == NO_BOX:
        return ("",) * len(CSV_BOX)
    words = tuple(word.strip() for word in text.split(","))
    try:
        left, top, right, bottom = (read_float(word) for word in words)
    except ValueError:
        return None
    return words if 0 <= left < right and 0 <= top < bottom else None


def mend_list(
    path: str | Path,
    data_dir: str | Path | None,
    fixes: str | Path,
    output: str | Path,
    split: str = "train",
    overwrite: bool = False,
) -> tuple[RawList, Counter]:
    """Write to `output` the list that the actions in `fixes` make of another; returns (that one, actions by kind).

    Raises InputError, and writes nothing, for an output that is there or of another kind than the list, for a line that
    names another row than the list has, and for actions that contradict each other. A row that is removed needs no
    other action, whatever else is said of it. One whose new label is one of the other split moves there (MOVED), so
    that no label is trained with and tested on which was not before.
    """
    raw = read_raw_list(path, data_dir, split)
    output = Path(output)
    if output.suffix.lower() != raw.suffix.lower():
        raise InputError(f"cannot write {str(output)!r}: what is made of {str(raw.file)!r} has to end in {raw.suffix}")
    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} is there already; give --overwrite to replace it")
    wanted, counts = _by_row(raw, read_fixes(fixes), fixes)
    kept = [row for row in raw.rows if all(fix.action != REMOVE for fix in wanted.get(row.number, ()))]
    if not any(row.cells for row in kept):
        raise InputError(f"the fixes remove every row of {str(raw.file)!r}")
    labels = {fix.row: fix.label for fixes in wanted.values() for fix in fixes if fix.action == LABEL}
    moved = _rows_that_move(kept, labels)
    text = _mended_text(raw, kept, wanted, moved)
    make_folder(output.parent)
    with replacing(output) as file:
        file.write(text.encode(errors=ESCAPED))
    if moved:
        counts[MOVED] = len(moved)
    return raw, counts


def _rows_that_move(kept: Sequence[RawRow], labels: dict[int, str]) -> dict[int, str]:
    """{row: its new split} of rows whose new label, `labels` {row: label}, is one of the other split.

    No label is trained with and tested on where that was so before; a list of which some labels are in both splits
    does not say where a row belongs, and its rows stay.
    """
    split_of: dict[str, str] = {}
    for row in kept:
        label, split = row.cells.get("label", "").strip(), row.cells.get("split", "").strip()
        if split_of.setdefault(label, split) != split:
            return {}
    # Where none but relabelled rows have a label, the first of them says where it belongs.
    homes: dict[str, str] = {}
    for row in sorted(kept, key=lambda row: row.number in labels):
        label = labels.get(row.number, row.cells.get("label", "")).strip()
        homes.setdefault(label, row.cells.get("split", "").strip())
    rows = {row.number: row for row in kept if row.number in labels}
    return {
        number: homes[labels[number].strip()]
        for number, row in rows.items()
        if homes[labels[number].strip()] != row.cells.get("split", "").strip()
    }


def _by_row(raw: RawList, fixes: Sequence[Fix], file: str | Path) -> tuple[dict[int, list[Fix]], Counter]:
    """({row: what is to be done with it, one Fix of each kind}, actions by kind), held against the list."""
    rows = {row.number: row for row in raw.rows}
    problems = Problems()
    wanted: dict[int, dict[str, Fix]] = {}
    for fix in fixes:
        row = rows.get(fix.row)
        if row is None or row.path != fix.path:
            there = f"{row.path!r} stands there" if row and row.path else "there is no such row"
            problems.add(fix.line, f"names row {fix.row} as {fix.path!r}, but in {str(raw.file)!r} {there}")
            continue
        if fix.action == BOX and raw.kind == "sop":
            problems.add(fix.line, f"gives row {fix.row} a box, which a list of this format cannot hold; make it a csv")
            continue
        if fix.action == LABEL and raw.kind == "sop" and len(fix.label.split()) > 1:
            problems.add(fix.line, f"the label {fix.label!r} has a blank, which a list of this format cannot hold")
            continue
        before = wanted.setdefault(fix.row, {}).setdefault(fix.action, fix)
        if (before.label, before.box) != (fix.label, fix.box):
            problems.add(fix.line, f"wants another {fix.action[:-1]} for row {fix.row} than line {before.line} does")
    _refuse(problems, file)

    counts = Counter()
    actions = {}
    for number, of_row in wanted.items():
        if REMOVE in of_row:
            of_row = {REMOVE: of_row[REMOVE]}
        actions[number] = list(of_row.values())
        counts.update(list(of_row))
    return actions, counts


def _refuse(problems: Problems, file: str | Path) -> None:
    sentences = first_faults(problems.lines(file))
    if sentences:
        raise InputError("\n".join(sentences))


def _mended_text(raw: RawList, kept: Sequence[RawRow], wanted: dict[int, list[Fix]], moved: dict[int, str]) -> str:
    """The text of the new list, of its rows that are kept; moved: {row: its new split}."""
    if raw.kind == "sop":
        return "\n".join(_mended_line(row, wanted.get(row.number, ())) for row in kept)

    header = list(raw.header)
    if any(fix.action == BOX for fixes in wanted.values() for fix in fixes):
        header += [column for column in CSV_BOX if column not in header]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in kept:
        cells = dict(row.cells)
        for fix in wanted.get(row.number, ()):
            if fix.action == LABEL:
                cells["label"] = fix.label
            else:
                cells.update(zip(CSV_BOX, fix.box))
        if row.number in moved:
            cells["split"] = moved[row.number]
            # What is trained with has no role, what is tested with has both.
            cells.update({flag: str(cells["split"] == SPLITS["test"]) for flag in CSV_FLAGS if flag in header})
        writer.writerow([*(cells.get(name, "") for name in header), *row.more])
    return text.getvalue()


def _mended_line(row: RawRow, fixes: Sequence[Fix]) -> str:
    """A line of an SOP list, its label, which is the second word, replaced if a fix wants that."""
    line = row.text
    for fix in fixes:
        before, _, after = re.fullmatch(r"(\s*\S+\s+)(\S+)(.*)", line, re.DOTALL).groups()
        line = before + fix.label + after
    return line
