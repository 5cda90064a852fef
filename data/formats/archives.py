"""Lists that are tar or parquet files: images in tars as WebDataset writes them, tables with paths or with bytes."""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from core.errors import InputError, first_line
from core.items import is_clip, member_item, member_of
from core.numerals import is_plain_int64
from core.packages import needed
from data.formats.csv import CSV_BOX, CSV_FLAGS, CSV_START, CSV_TEXT, NO_ROW, SPLITS, add_row, empty_columns
from data.formats.folders import IMAGE_SUFFIXES
from data.formats.problems import Problems
from data.formats.tars import open_tar_index
from data.members import IMAGE_COLUMNS, LABEL_COLUMNS, NAME_COLUMNS, first_column, image_column
from data.vocabulary import as_labels

SUFFIXES = (".tar", ".parquet")
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
WILD = re.compile(r"[*?\[]|\{[^{}]*(?:\.\.|,)[^{}]*\}")
# What a KEY.json, or a column of a parquet file, may say of an image besides its label, as a csv does.
KNOWN = ("split", "category", "sequence", CSV_START, *CSV_FLAGS, *CSV_BOX, CSV_TEXT)
PATH_COLUMNS = ("path", "image_path", "file_name", "filename", *IMAGE_COLUMNS)
ROWS = 4096  # of a parquet file in memory at a time
NO_LABEL = "no label: KEY.cls, KEY.json with an entry label, or KEY.txt tells it"


class Table(NamedTuple):
    """The rows of one archive.

    name: of its file. header: its columns. rows: yields each row as {name: text}. place: what a row is called in
    sentences, the first being 1. members: whether paths are those of images within the archive, so that no file has to
    be looked for.
    """

    name: str
    header: list[str]
    rows: Callable[[], Iterator[dict[str, str]]]
    place: Callable[[int], str]
    members: bool


class _Within(Problems):
    """Problems of one archive, told of as what is wrong with a list of several."""

    def __init__(self, problems: Problems, table: Table, is_alone: bool):
        super().__init__()
        self.problems = problems
        self.table = table
        self.is_alone = is_alone

    def __len__(self) -> int:
        return len(self.problems)

    def add(self, line: int, sentence: str) -> None:
        if sentence == "label is empty":
            sentence = NO_LABEL
            if not self.table.name.lower().endswith(".tar"):
                sentence = f"no label: one of the columns {', '.join(LABEL_COLUMNS)} tells it"
        place = self.table.place(line)
        if not self.is_alone:
            place = f"{self.table.name}: {place}"
        self.problems.add(0, f"{place}: {sentence}")

    def note(self, sentence: str) -> None:
        self.problems.note(sentence)


def archives_of(path: Path) -> list[Path]:
    """The tar and parquet files that a path names: itself, those of a folder without folders and images, or those of a
    pattern (`shards/*.tar`, `train-{000..127}.tar`); none where it is no such list.

    Compressed tars are among them, as reading them will tell.
    """
    if path.is_file():
        return [path] if path.name.lower().endswith((*SUFFIXES, *COMPRESSED)) else []
    if path.is_dir():
        inside = sorted(path.iterdir())
        if any(_is_of_other_list(entry) for entry in inside):
            return []
        return [entry for entry in inside if entry.name.lower().endswith((*SUFFIXES, *COMPRESSED))]
    if not WILD.search(str(path)):
        return []
    found = []
    for text in _braces(str(path)):
        # What is named by itself has to be there, as reading it will tell.
        found += sorted(glob.glob(text)) if glob.has_magic(text) else [text]
    archives = [Path(file) for file in found if file.lower().endswith((*SUFFIXES, *COMPRESSED))]
    if not any(archive.is_file() for archive in archives):
        return []
    return archives


def _is_of_other_list(entry: Path) -> bool:
    """Whether what lies in a folder says that it is a folder of images, or one per label."""
    if entry.name.startswith("."):
        return False
    return entry.suffix.lower() in IMAGE_SUFFIXES or is_clip(entry.name) or entry.is_dir()


def _braces(text: str) -> list[str]:
    """A text with {000..127} or {a,b} as all that it stands for, as shells and WebDataset have it."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        words = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    elif "," in match[1]:
        words = match[1].split(",")
    else:
        return [text]
    rests = _braces(text[match.end() :])
    return [f"{text[: match.start()]}{word}{rest}" for word, rest in itertools.product(words, rests)]


def parse_archives(files: Sequence[Path], split: str | None, problems: Problems) -> dict[str, list] | None:
    """The columns of all files together, as of `data.formats.parse`; None where the whole cannot be read.

    Where their images lie within them the paths are whole, `files` tells the images apart, and there are no `lines`.
    Archives have no split, unless a column or an entry says so: all of their rows are of the one that is asked for.
    Where `split` is None and a row has no label, there are no `labels`.
    """
    tables = open_tables(files, problems)
    if tables is None:
        return None
    header = header_of(tables)
    wanted = split if split in SPLITS else None
    columns = empty_columns(header, wanted, problems)
    if columns is None:
        return None
    lacks_labels, all_plain = _read_tables(tables, wanted, split is not None, columns, problems)
    if not columns["lines"]:
        if not problems:
            says_splits = any("split" in table.header for table in tables)
            problems.add(0, f"{NO_ROW} {SPLITS[wanted]}" if wanted and says_splits else "no image in it")
        return None
    # A row has a line of its own where there is one file, and no images are within it that have names.
    if len(tables) > 1 or tables[0].members:
        del columns["lines"]
    if tables[0].members:
        columns["files"] = _keys_of_members(columns["paths"])
    if lacks_labels:
        del columns["labels"]
    else:
        columns["labels"] = as_labels(columns["labels"], all_plain)
    return columns


def open_tables(files: Sequence[Path], problems: Problems) -> list[Table] | None:
    """The tables of some archives; None where one cannot be read, or they do not go together, as `problems` says."""
    tables = []
    for file in files:
        try:
            tables.append(_open_table(file))
        except InputError as error:
            problems.add(0, str(error))
        except OSError as error:
            problems.add(0, f"{str(file)!r} cannot be read: {error.strerror}")
    if len(tables) < len(files):
        return None
    if len({table.members for table in tables}) > 1:
        problems.add(0, "some of its files hold images, others paths; give them one by one")
        return None
    return tables


def header_of(tables: Sequence[Table]) -> list[str]:
    """The columns of some tables together, as a csv's header; label, path and split are always there."""
    return list(dict.fromkeys(["label", "split", *(name for table in tables for name in table.header)]))


class ArchiveRow(NamedTuple):
    """One row of an archive: its texts by column, as `add_row` takes them with its number, header and problems."""

    row: dict[str, str]
    number: int
    header: list[str]
    problems: Problems


def archive_rows(
    tables: Sequence[Table], split: str | None, problems: Problems, is_alone: bool
) -> Iterator[ArchiveRow]:
    """The rows of some tables, one after the other; what they leave out is as a csv without that column has it.

    split: that of rows which do not say one. is_alone: whether the list has one file, which need not be named. Rows
    without a label are there, with an empty one.
    """
    defaults = dict.fromkeys(["label", "path", "text", "category", "sequence", *CSV_BOX], "")
    defaults |= dict.fromkeys(CSV_FLAGS, "True")
    defaults["split"] = SPLITS.get(split, SPLITS["test"])
    for table in tables:
        within = _Within(problems, table, is_alone)
        header = ["split", *table.header]
        for number, told in enumerate(table.rows(), start=1):
            yield ArchiveRow({**defaults, **{n: value for n, value in told.items() if value}}, number, header, within)


def _read_tables(
    tables: list[Table], wanted: str | None, needs_labels: bool, columns: dict[str, list], problems: Problems
) -> tuple[bool, bool]:
    """Append the rows of all tables to `columns`; (whether a label is missing, whether all are plain integers)."""
    lacks_labels, all_plain = False, True
    for row, number, header, within in archive_rows(tables, wanted, problems, len(tables) == 1):
        if not row["label"] and not needs_labels:
            lacks_labels = True
            row["label"] = "-"
        # Of every row, whatever its split: train and test labels of one file are of one kind.
        all_plain = all_plain and is_plain_int64(row["label"].strip() or "0")
        add_row(row, number, header, wanted, columns, within)
    return lacks_labels, all_plain


def _keys_of_members(paths: list[str]) -> list[tuple[int, int]]:
    """What tells images within archives apart from all others, (N, 2): their archive, and where they are in it."""
    keys = []
    archives: dict[str, int] = {}
    for member in map(member_of, paths):
        if member.archive not in archives:
            status = os.stat(member.archive)
            digest = hashlib.blake2b(f"{status.st_dev} {status.st_ino}".encode(), digest_size=8).digest()
            archives[member.archive] = int.from_bytes(digest, "little")
        keys.append((archives[member.archive], member.start))
    return keys


def _open_table(file: Path) -> Table:
    """Raises InputError for a file that cannot be read."""
    if file.suffix.lower() == ".parquet":
        return _open_parquet(file)
    return _open_tar(file)


def _open_tar(file: Path) -> Table:
    index = open_tar_index(file, ("label", *KNOWN))
    columns = dict(index.values)
    # A text is what is said of an image; where nothing else tells a label, it is that.
    if "label" not in columns and CSV_TEXT in columns:
        columns["label"] = columns[CSV_TEXT]

    def rows() -> Iterator[dict[str, str]]:
        lists = {name: column.tolist() for name, column in columns.items()}
        members = zip(index.names.tolist(), index.starts.tolist(), index.sizes.tolist(), strict=True)
        for row, (name, start, size) in enumerate(members):
            yield {"path": member_item(str(file), name, start, size), **{key: lists[key][row] for key in lists}}

    return Table(file.name, ["path", *columns], rows, lambda row: str(index.names[row - 1]), True)


def _open_parquet(file: Path) -> Table:
    parquet = needed("pyarrow.parquet", f"the list {str(file)!r}", "shards")
    try:
        opened = parquet.ParquetFile(file, memory_map=True)
        schema = opened.schema_arrow
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise InputError(f"{str(file)!r} cannot be read: {first_line(error)}") from None
    image = image_column(schema)
    label = first_column(schema.names, LABEL_COLUMNS)
    path = None
    if image is None:
        path = first_column([name for name in schema.names if "string" in str(schema.field(name).type)], PATH_COLUMNS)
    if image is None and path is None and CSV_TEXT not in schema.names:
        raise InputError(
            f"{str(file)!r} has no column of images' bytes ({', '.join(IMAGE_COLUMNS)}), paths (path) or texts (text); "
            f"it has {', '.join(f'{name} ({schema.field(name).type})' for name in schema.names)}"
        )
    for name in filter(None, (label, *(name for name in KNOWN if name in schema.names))):
        if str(schema.field(name).type).startswith(("list", "large_list", "struct", "map")):
            raise InputError(f"{str(file)!r}: column {name} is {schema.field(name).type}, expected texts or numbers")
    # {our name: the column's}.
    columns = {name: name for name in KNOWN if name in schema.names}
    if label is not None:
        columns["label"] = label
    if path is not None:
        columns["path"] = path
    name = None
    if image is not None:
        name = first_column(schema.names, [column for column in NAME_COLUMNS if column != image])
        if str(schema.field(image).type).startswith("struct") and name is None:
            name = f"{image}.path"

    def rows() -> Iterator[dict[str, str]]:
        read = list(dict.fromkeys([*columns.values(), *([name] if name else [])]))
        number = 0
        for batch in _batches(opened, read, file):
            lists = {column: batch.column(column.partition(".")[0]).to_pylist() for column in read}
            if name is not None and "." in name:
                lists[name] = [value and value.get("path") for value in lists[name]]
            for row in range(batch.num_rows):
                told = {ours: _text_of(lists[theirs][row]) for ours, theirs in columns.items()}
                if image is not None:
                    called = str(name and lists[name][row] or number)
                    told["path"] = member_item(str(file), called, number, None)
                yield told
                number += 1

    header = [*columns] if image is None else ["path", *columns]
    return Table(file.name, header, rows, lambda row: f"row {row}", image is not None)


def _batches(opened, columns: list[str], file: Path) -> Iterator:
    """Some rows after the other of some columns. Raises InputError where they cannot be read."""
    if not columns:
        # A batch without columns has no rows, either.
        columns = [opened.schema_arrow.names[0]]
    try:
        yield from opened.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)
    except Exception as error:
        raise InputError(f"{str(file)!r} cannot be read: {first_line(error)}") from None


def _text_of(value: object) -> str:
    # What is no number is no value, either.
    return "" if value is None or value != value else str(value)


def is_archive(path: Path) -> bool:
    """Whether a path is called as an archive, or as several are, whether or not they are there."""
    return path.name.lower().endswith((*SUFFIXES, *COMPRESSED))
