"""A list of any length to columns on the disk (data/stored.py), read and written a portion at a time."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from core.errors import InputError
from core.files import make_folder, sync
from core.items import is_text, member_of, modality_of
from core.numerals import is_plain_int64
from core.slices import slices_of
from data.formats.archives import archive_rows, archives_of, header_of, open_tables
from data.formats.csv import SPLITS, add_row, empty_columns, open_table, read_header
from data.formats.problems import SHOWN_FAULTS, Problems
from data.formats.sop import sop_rows
from data.lists import find_list, leads_out
from data.make_list import list_root
from data.stored import ALL, CARD, CODED, FORMAT, PLAIN, SUFFIX, TEXTS

ROWS = 2**16  # of a list in memory at a time
SORTED_ROWS = 2**21  # codes that are put in order at a time
CODES = "<i4"  # so a list has fewer labels than 2^31


class Packed(NamedTuple):
    """What was written: the list, {part: (rows, labels)}, bytes on the disk, and the folder that its paths start in."""

    file: Path
    parts: dict[str, tuple[int, int]]
    size: int
    root: Path


def pack_list(
    path: str | Path, output: str | Path, data_dir: str | None = None, overwrite: bool = False, rows: int = ROWS
) -> Packed:
    """Write a list (a csv, an SOP list, tar or parquet files) as columns that stay on the disk.

    rows: of it in memory at a time. Files are not looked for. Raises InputError for all that is wrong with its rows, as
    far as SHOWN_FAULTS of them; then, or where the process is killed, what is at `output` stays what it was.
    """
    output = Path(output)
    if output.suffix.lower() != SUFFIX:
        raise InputError(f"cannot write {str(output)!r}: a list on the disk has to end in {SUFFIX}")
    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} is there already; give --overwrite to replace it")
    file, folder = find_list(path, data_dir)
    if file is None:
        raise InputError(f"no list {str(path)!r}, neither in {str(folder)!r} nor from here")
    if file.is_dir() and not archives_of(file):
        raise InputError(f"{str(file)!r} is a folder, whose list python reader.py make writes; pack takes that")
    make_folder(output.parent)
    root = list_root(folder, output)
    prefix = os.path.relpath(folder, root)
    problems = Problems()
    with ListWriter(output) as writer:
        try:
            for part, columns in _portions(file, problems, rows):
                columns["paths"] = [_path_from(path, folder, root, prefix, problems) for path in columns["paths"]]
                if len(problems) > SHOWN_FAULTS:
                    break
                writer.part(part).append(columns)
        except UnicodeDecodeError as error:
            problems.add(0, f"not a list, nor any text in UTF-8: {error.reason} at byte {error.start}")
        except csv.Error as error:
            problems.add(0, f"not csv: {error}")
        if not problems and not writer.parts:
            problems.add(0, "no row in it")
        if problems:
            sentences = problems.lines(file)
            if len(sentences) > SHOWN_FAULTS:
                sentences[SHOWN_FAULTS:] = ["and more faults; python reader.py check shows all"]
            raise InputError("\n".join(sentences))
        writer.finish(file.name)
    counts = {name: (part.rows, part.labels) for name, part in writer.parts.items()}
    size = sum(entry.stat().st_size for entry in output.rglob("*") if entry.is_file())
    return Packed(output, counts, size, root)


def _path_from(path: str, folder: Path, root: Path, prefix: str, problems: Problems) -> str:
    """A path of a list as the packed one has it: from `root`, unless it lies elsewhere or is a text itself."""
    if is_text(path):
        return path
    if member_of(path) is not None:
        whole = os.path.abspath(path)
        start = os.path.join(root, "")
        return whole.removeprefix(start)
    if leads_out(path, folder):
        problems.add(0, f"path {path!r} leads out of data_dir {str(folder)!r}; give a folder that holds it")
    if "//" in path or "./" in path:
        path = str(PurePath(path))
    if prefix == ".":
        return path
    return os.path.join(prefix, path)


def _portions(file: Path, problems: Problems, rows: int) -> Iterator[tuple[str, dict[str, list]]]:
    """(part, columns of some of its rows), in the order of the list; columns are those of `data.formats.parse`."""
    archives = archives_of(file)
    if archives:
        yield from _portions_of_archives(archives, problems, rows)
    elif file.suffix.lower() == ".csv":
        with open(file, newline="", encoding="utf-8-sig") as stream:
            table, skipped = open_table(stream)
            portions = _Portions(read_header(table), True, problems, rows)
            for row in table:
                yield from portions.add(row, skipped + table.line_num, table.fieldnames, problems)
            yield from portions.rest()
    else:
        columns = {"lines": [], "paths": [], "labels": [], "categories": []}
        with open(file, encoding="utf-8-sig") as stream:
            for row in sop_rows(stream, problems):
                for name, value in row.items():
                    columns[name].append(value)
                if len(columns["lines"]) == rows:
                    yield ALL, columns
                    columns = {name: [] for name in columns}
        if columns["lines"]:
            yield ALL, columns


def _portions_of_archives(
    archives: Sequence[Path], problems: Problems, rows: int
) -> Iterator[tuple[str, dict[str, list]]]:
    # One at a time: of thousands of tars only one index is in memory. What columns there are, all have to agree on.
    portions = None
    for archive in archives:
        tables = open_tables([archive], problems)
        if tables is None:
            continue
        header = header_of(tables)
        if portions is None:
            portions = _Portions(header, "split" in tables[0].header, problems, rows)
        elif set(header) != set(portions.header):
            other = sorted(set(header) ^ set(portions.header))[0]
            problems.add(0, f"{archive}: {other} is known of some files only; leave it out, or give it in each")
            continue
        for row in archive_rows(tables, "test", problems, len(archives) == 1):
            yield from portions.add(*row)
    if portions is not None:
        yield from portions.rest()


class _Portions:
    """Rows gathered by their part, and handed on when there are some."""

    def __init__(self, header: list[str], has_splits: bool, problems: Problems, rows: int):
        self.header = header
        self.has_splits = has_splits
        self.limit = rows
        splits = SPLITS if has_splits else {"test": ALL}
        self.parts = {split: SPLITS[split] if has_splits else ALL for split in splits}
        before = len(problems)
        # Notes are the same for each split; what is wrong with the header is told once.
        self.columns = {
            split: empty_columns(header, split, problems if not n else Problems()) for n, split in enumerate(splits)
        }
        self.is_usable = len(problems) == before

    def add(self, row: dict, number: int, header: list[str], problems: Problems) -> Iterator[tuple[str, dict]]:
        """Take one row; yields a portion where it is the last of one."""
        if not self.is_usable:
            return
        split = "test"
        if self.has_splits and (row.get("split") or "").strip() == SPLITS["train"]:
            split = "train"
        columns = self.columns[split]
        add_row(row, number, header, split, columns, problems)
        if len(columns["lines"]) >= self.limit:
            yield self._taken(split)

    def rest(self) -> Iterator[tuple[str, dict]]:
        """What is left."""
        for split, columns in self.columns.items():
            if columns and columns["lines"]:
                yield self._taken(split)

    def _taken(self, split: str) -> tuple[str, dict]:
        columns = self.columns[split]
        self.columns[split] = {name: [] for name in columns}
        return self.parts[split], columns


class ListWriter:
    """A list on the disk while it is written: whole when its context ends well, else as it was before."""

    def __init__(self, output: Path):
        self.output = output
        # Always the same name, so that what a killed process left is gone with the next.
        self.folder = output.with_name(f"{output.name}.part")
        self.parts: dict[str, PartWriter] = {}

    def __enter__(self) -> "ListWriter":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for part in self.parts.values():
            part.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def part(self, name: str) -> "PartWriter":
        """The part of that name, begun where it is the first time."""
        if name not in self.parts:
            self.parts[name] = PartWriter(self.folder / name)
        return self.parts[name]

    def finish(self, source: str) -> None:
        """Complete all parts, and let them take the place of what is at `output`. source: what they were made of."""
        all_plain = all(part.all_plain for part in self.parts.values())
        cards = {name: part.finish(all_plain) for name, part in sorted(self.parts.items())}
        (self.folder / CARD).write_text(json.dumps({"format": FORMAT, "source": source, "parts": cards}, indent=2))
        sync(self.folder / CARD)
        old = self.output.with_name(f"{self.output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.output.exists():
            os.rename(self.output, old)
        os.rename(self.folder, self.output)
        sync(self.output.parent)
        shutil.rmtree(old, ignore_errors=True)


class PartWriter:
    """The columns of one part, that grow by portions.

    A label's code is its number in the order in which labels come, until all are there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.rows = 0
        self.all_plain = True
        self.modalities: set[str] = set()
        self._files: dict[str, BinaryIO] = {}
        self._ends: dict[str, int] = {}
        self._digest = hashlib.blake2b(digest_size=32)
        self._coders = {name: _Coder() for name in ("labels", *CODED)}
        self._kinds = {"codes": CODES}
        self._count: int | None = None

    @property
    def labels(self) -> int:
        """How many different ones there are."""
        if self._count is not None:
            return self._count
        return len(self._coders["labels"])

    def append(self, columns: dict[str, list]) -> None:
        """Write some rows: `paths`, `labels` (texts) and others of Records."""
        self.modalities.update(map(modality_of, columns["paths"]))
        self.all_plain = self.all_plain and all(map(is_plain_int64, set(columns["labels"])))
        self._write("codes", self._coders["labels"].codes_of(columns["labels"]))
        self._digest.update("\0".join(columns["labels"]).encode(errors="surrogateescape"))
        for name in TEXTS:
            if name in columns:
                encoded = [text.encode(errors="surrogateescape") for text in columns[name]]
                lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
                self._append_texts(name, np.frombuffer(b"".join(encoded), np.uint8), lengths)
        for name in CODED:
            if name in columns:
                self._kinds[name] = CODES
                self._write(name, self._coders[name].codes_of(columns[name]))
        for name, kind in PLAIN.items():
            if name in columns:
                self._kinds[name] = kind
                self._write(name, np.array(columns[name], kind))
        self.rows += len(columns["paths"])

    def append_encoded(self, content: np.ndarray, lengths: np.ndarray, codes: np.ndarray) -> None:
        """Write rows of paths that are UTF-8 already, (B,) uint8 and their lengths (n,), and codes (n,): of labels that
        are 0 … C - 1, each of which some row has."""
        self.modalities.add("image")
        self._count = max(self._count or 0, int(codes.max()) + 1)
        self._append_texts("paths", content, lengths)
        self._digest.update(codes.tobytes())
        self._write("codes", codes.astype(CODES))
        self.rows += len(lengths)

    def finish(self, all_plain: bool) -> dict[str, Any]:
        """Complete the files; returns the card. all_plain: whether labels are integers, in all parts of the list."""
        self.close()
        values = {}
        for name in CODED:
            if name in self._kinds:
                order, texts = self._coders[name].sorted()
                self._recode(name, order)
                values[name] = len(texts)
                self._write_texts(f"{name}_values", texts)
        count = self.labels
        if self._count is not None:
            self._write("labels", np.arange(count, dtype="<i8"))
            self._kinds["labels"] = "<i8"
        else:
            order, texts = self._coders["labels"].sorted(all_plain)
            self._recode("codes", order)
            if all_plain:
                self._kinds["labels"] = "<i8"
                self._write("labels", np.array([int(text) for text in texts], "<i8"))
            else:
                self._write_texts("label_texts", texts)
        self._write_rows(count)
        self.close()
        for name in self._ends:
            self._kinds.setdefault(name, "|u1")
        return {
            "rows": self.rows,
            "labels": count,
            "modalities": sorted(self.modalities),
            "values": values,
            "digest": self._digest.hexdigest(),
            "files": self._kinds,
        }

    def close(self) -> None:
        """Put what is written on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._files.clear()

    def _append_texts(self, name: str, content: np.ndarray, lengths: np.ndarray) -> None:
        end = self._ends.get(name, 0)
        ends = end + np.cumsum(lengths)
        self._ends[name] = int(ends[-1]) if len(ends) else end
        self._write(name, content)
        self._write(f"{name}_ends", ends.astype("<i8"))
        self._digest.update(content)

    def _write_texts(self, name: str, texts: list[str]) -> None:
        for block in slices_of(len(texts), ROWS):
            encoded = [text.encode(errors="surrogateescape") for text in texts[block]]
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            self._append_texts(name, np.frombuffer(b"".join(encoded), np.uint8), lengths)

    def _write(self, name: str, values: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = open(self.folder / name, "ab")
        try:
            self._files[name].write(np.ascontiguousarray(values).tobytes())
        except OSError as error:
            raise InputError(f"cannot write {str(self.folder / name)!r}: {error.strerror}") from None

    def _mapped(self, name: str, kind: str, mode: str, count: int) -> np.ndarray:
        return np.memmap(self.folder / name, kind, mode, shape=(count,))

    def _recode(self, name: str, order: np.ndarray) -> None:
        """Give the values of a column the codes of their alphabetical order. order (C,): the new code of each."""
        codes = self._mapped(name, CODES, "r+", self.rows)
        for block in slices_of(self.rows, SORTED_ROWS):
            codes[block] = order[codes[block]]
        codes.flush()

    def _write_rows(self, count: int) -> None:
        """Write `rows`, those of a label side by side, and `counts`: a counting sort, portion by portion."""
        codes = self._mapped("codes", CODES, "r", self.rows)
        counts = np.zeros(count, np.int64)
        for block in slices_of(self.rows, SORTED_ROWS):
            counts += np.bincount(codes[block], minlength=count)
        self._write("counts", counts.astype("<i8"))
        kind = "<i4" if self.rows < 2**31 else "<i8"
        self._kinds |= {"counts": "<i8", "rows": kind}
        rows = self._mapped("rows", kind, "w+", self.rows)
        # Where the next row of each label goes.
        free = np.cumsum(counts) - counts
        for block in slices_of(self.rows, SORTED_ROWS):
            portion = np.asarray(codes[block])
            order = np.argsort(portion, kind="stable")
            ordered = portion[order]
            begins = np.flatnonzero(np.diff(ordered, prepend=-1))
            lengths = np.diff(begins, append=len(ordered))
            within = np.arange(len(ordered)) - np.repeat(begins, lengths)
            rows[free[ordered] + within] = block.start + order
            free[ordered[begins]] += lengths
        rows.flush()


class _Coder:
    """Codes of texts, in the order in which they come."""

    def __init__(self):
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def codes_of(self, texts: list[str]) -> np.ndarray:
        """(n,) integers."""
        known = self._codes
        return np.fromiter((known.setdefault(text, len(known)) for text in texts), CODES, len(texts))

    def sorted(self, as_integers: bool = False) -> tuple[np.ndarray, list[str]]:
        """(for each code its place in order, (C,); the texts in order)."""
        texts = list(self._codes)
        if as_integers:
            # Each plain integer is one text alone.
            order = np.argsort(np.array([int(text) for text in texts], np.int64), kind="stable")
        else:
            order = np.argsort(np.array(texts, np.str_), kind="stable")
        place = np.empty(len(texts), CODES)
        place[order] = np.arange(len(texts))
        return place, [texts[code] for code in order]
