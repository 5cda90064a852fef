"""Files of pairs that are the same or not, and of templates: several images that stand for one thing.

Pairs: the pairs.txt of Labeled Faces in the Wild, whose first line tells folds and pairs a fold; a csv with the columns
path1, path2 and same, perhaps fold; of templates a csv with template1, template2 and same, or lines of two numbers and
1 or 0, as IJB has them. Templates: a csv with path and template, perhaps media, or lines `path template media`.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import InputError, meant_by
from core.items import noun_of
from core.text import counted
from data.formats.csv import BOOLEANS, find_delimiter
from data.formats.problems import echo, first_faults
from data.records import Records


@dataclass(frozen=True)
class PairFile:
    """P pairs as a file has them: `left` and `right` name images, or templates where `of_templates`.

    is_same (P,) bool; folds (P,) names, or None; lines (P,): where they stand.
    """

    source: str
    left: list[str]
    right: list[str]
    is_same: np.ndarray
    folds: np.ndarray | None
    lines: list[int]
    of_templates: bool


@dataclass(frozen=True)
class Templates:
    """Which rows of a list make which template: rows (M,), numbers (M,) of templates, media (M,) numbers or None.

    names: {template as the file has it: its number}.
    """

    rows: np.ndarray
    numbers: np.ndarray
    media: np.ndarray | None
    names: dict[str, int]


def read_pairs(path: str | Path) -> PairFile:
    """A file of pairs. Raises InputError, with file:line, for what is wrong with it."""
    lines = _read_lines(path)
    if Path(path).suffix.lower() == ".csv":
        return _csv_pairs(path, lines)
    first = lines[0][1].split()
    if len(first) == 3 and all(re.fullmatch(r"[+-]?\d+", word) for word in first):
        return _number_pairs(path, lines)
    return _lfw_pairs(path, lines)


def _read_lines(path: str | Path) -> list[tuple[int, str]]:
    """(number, text) of the lines of a file that are not empty."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{str(path)!r} is empty")
    return lines


def _refuse(path: str | Path, problems: list[tuple[int, str]]) -> None:
    """Raise InputError where there are problems (line, sentence), one a line."""
    if not problems:
        return
    sentences = first_faults([f"{path}:{line}: {sentence}" for line, sentence in problems])
    raise InputError("\n".join(sentences))


def _read_table(path: str | Path, required: Iterable[tuple[str, ...]], optional: tuple[str, ...]):
    """(the set of `required` columns that a csv has, [(line, row)]). Raises InputError where it has none of them."""
    required = list(required)
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            delimiter, skipped = find_delimiter(stream)
            table = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True)
            header = table.fieldnames = [name.strip() for name in table.fieldnames or []]
            rows = [(skipped + table.line_num, row) for row in table]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not csv: {error}") from None
    for columns in required:
        if set(columns) <= set(header):
            return columns, rows
    missing = next(name for name in required[0] if name not in header)
    wanted = " or ".join(", ".join(columns) for columns in required)
    raise InputError(
        f"{path}:1: no column {missing!r} in {echo(header)}; it takes {wanted}.{meant_by(missing, header)}"
    )


def _csv_pairs(path: str | Path, lines: list[tuple[int, str]]) -> PairFile:
    kinds = (("path1", "path2", "same"), ("template1", "template2", "same"))
    columns, rows = _read_table(path, kinds, ("fold",))
    left, right, same, folds, numbers, problems = [], [], [], [], [], []
    for line, row in rows:
        names = [(row[column] or "").strip() for column in columns[:2]]
        if not all(names):
            problems.append((line, f"an empty {columns[names.index('')]}"))
            continue
        kind = (row["same"] or "").strip().lower()
        if kind not in BOOLEANS:
            problems.append((line, f"same is {kind!r}; it is 1 or 0"))
            continue
        left.append(names[0])
        right.append(names[1])
        same.append(BOOLEANS[kind])
        folds.append((row.get("fold") or "").strip())
        numbers.append(line)
    _refuse(path, problems)
    if not left:
        raise InputError(f"{str(path)!r} holds no pair")
    if not any(folds):
        folds = None
    elif not all(folds):
        raise InputError(f"{path}:{numbers[folds.index('')]}: an empty fold, where other rows have one")
    else:
        folds = np.array(folds)
    of_templates = columns[0] == "template1"
    return PairFile(str(path), left, right, np.array(same), folds, numbers, of_templates)


def _number_pairs(path: str | Path, lines: list[tuple[int, str]]) -> PairFile:
    """Lines `template template 1 or 0`."""
    left, right, same, problems = [], [], [], []
    for line, text in lines:
        words = text.split()
        if len(words) != 3 or words[2] not in ("0", "1"):
            problems.append((line, f"{echo(text)}: a line is two templates, and 1 (same) or 0"))
            continue
        left.append(words[0])
        right.append(words[1])
        same.append(words[2] == "1")
    _refuse(path, problems)
    return PairFile(str(path), left, right, np.array(same), None, [line for line, _ in lines], True)


def _lfw_pairs(path: str | Path, lines: list[tuple[int, str]]) -> PairFile:
    """A pairs.txt: `folds pairs`, or `pairs` alone for one fold; then of each fold so many same and so many not.

    A pair is `name n1 n2`, or `name1 n1 name2 n2` of two people; the image is name/name_000n.
    """
    line, text = lines[0]
    words = text.split()
    if not 1 <= len(words) <= 2 or not all(word.isdigit() and int(word) for word in words):
        raise InputError(
            f"{path}:{line}: {echo(text)}; a pairs.txt begins with the numbers of folds and of pairs of a kind in each "
            "(10 300), a csv ends in .csv"
        )
    fold_count, size = (int(word) for word in (["1", *words])[-2:])
    expected = 2 * fold_count * size
    if len(lines) - 1 != expected:
        raise InputError(
            f"{path}:{line}: {counted(fold_count, 'fold')} of {counted(size, 'pair')} of either kind are "
            f"{counted(expected, 'pair')}; it holds {len(lines) - 1}"
        )
    left, right, same, problems = [], [], [], []
    for number, (line, text) in enumerate(lines[1:]):
        words = text.split()
        if len(words) not in (3, 4) or not all(words[place].isdigit() for place in (1, len(words) - 1)):
            problems.append((line, f"{echo(text)}: a pair is `name n1 n2`, or `name1 n1 name2 n2` of two"))
            continue
        is_same = len(words) == 3
        if is_same != (number % (2 * size) < size):
            kind = "one name" if is_same else "two names"
            problems.append((line, f"{echo(text)}: of {kind}, but the first {size} of a fold are of one, then of two"))
            continue
        other = words[0] if is_same else words[2]
        left.append(_lfw_name(words[0], words[1]))
        right.append(_lfw_name(other, words[-1]))
        same.append(is_same)
    _refuse(path, problems)
    folds = None
    if fold_count > 1:
        width = len(str(fold_count))
        folds = np.array([f"{1 + number // (2 * size):0{width}}" for number in range(expected)])
    return PairFile(str(path), left, right, np.array(same), folds, [line for line, _ in lines[1:]], False)


def _lfw_name(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04}"


def _without_suffix(path: str) -> str:
    """A path without what stands behind the last dot of its last part."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


class RowsByPath:
    """Finds rows of a list by how a file names them: the path, an end of it, with or without its suffix."""

    def __init__(self, records: Records):
        self.records = records
        # By the last two parts of the path, or one: there may be thousands of one name in as many folders.
        self._by_end = defaultdict(list)
        for row, path in enumerate(records.paths.tolist()):
            for whole in dict.fromkeys((path, _without_suffix(path))):
                parts = whole.rsplit("/", 2)
                for count in (1, 2):
                    self._by_end["/".join(parts[-count:])].append((row, whole))

    def find(self, name: str) -> list[int]:
        """Rows that a name may mean: none, one, or several."""
        wanted = name.removeprefix("./")
        end = "/".join(wanted.rsplit("/", 2)[-2:])
        found = {}
        for row, whole in self._by_end.get(end, []):
            if whole == wanted or whole.endswith(f"/{wanted}"):
                found[row] = None
        exact = [row for row in found if self.records.paths[row] == wanted]
        return exact or list(found)

    def rows(self, names: list[str], lines: list[int], source: str) -> np.ndarray:
        """(P,) rows of names (P,) that stand in lines (P,) of a file.

        Raises InputError for those that are not in the list, and for those that may mean several of its rows.
        """
        rows, problems = [], []
        noun = noun_of(self.records.paths[:1])
        for name, line in zip(names, lines):
            found = self.find(name)
            if len(found) == 1:
                rows.append(found[0])
            elif not found:
                problems.append((line, f"no {noun} {name!r} in {self.records.source}"))
            else:
                problems.append(
                    (line, f"{name!r} may be {len(found)} {noun}s of {self.records.source}; write more of it")
                )
        _refuse(source, problems)
        return np.array(rows, dtype=np.int64)


def read_templates(path: str | Path, records: Records) -> Templates:
    """A file of templates, of rows of a list. Raises InputError for what is wrong, and for a template of two labels."""
    lines = _read_lines(path)
    names, templates, media, numbers = [], [], [], []
    if Path(path).suffix.lower() == ".csv":
        columns, rows = _read_table(path, [("path", "template")], ("media",))
        for line, row in rows:
            names.append((row["path"] or "").strip())
            templates.append((row["template"] or "").strip())
            media.append((row.get("media") or "").strip())
            numbers.append(line)
    else:
        for line, text in lines:
            words = text.rsplit(maxsplit=2)
            if len(words) != 3:
                raise InputError(f"{path}:{line}: {echo(text)}; a line is `path template media`")
            names.append(words[0])
            templates.append(words[1])
            media.append(words[2])
            numbers.append(line)
    _refuse(path, [(line, "an empty template") for line, template in zip(numbers, templates) if not template])
    rows = RowsByPath(records).rows(names, numbers, str(path))
    number_of = {name: number for number, name in enumerate(dict.fromkeys(templates))}
    of_rows = np.array([number_of[name] for name in templates])
    # A template stands for one thing.
    label_of = {}
    for line, number, label in zip(numbers, of_rows.tolist(), records.labels[rows].tolist()):
        if label_of.setdefault(number, label) != label:
            raise InputError(
                f"{path}:{line}: template {templates[numbers.index(line)]!r} has images of the labels "
                f"{label_of[number]!r} and {label!r}; a template is of one"
            )
    groups = None
    if any(media):
        # Of one template and one video or photo.
        keys = list(zip(of_rows.tolist(), media))
        number_of_group = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        groups = np.array([number_of_group[key] for key in keys])
    return Templates(rows, of_rows, groups, number_of)
