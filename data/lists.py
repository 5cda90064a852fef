"""Lists looked for and opened: SOP lists, csv files and folders to Records, with all that is wrong with them."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.items import file_of, is_text, noun_of, start_of
from core.text import counted
from data.embedded import EMBEDDED, embedded_data
from data.formats import FORMATS, parse
from data.formats.archives import archives_of, is_archive
from data.formats.csv import SPLITS
from data.formats.folders import parse_folder
from data.formats.problems import Problems, first_faults
from data.image.decode import check_opencv
from data.names import read_names
from data.records import Records
from data.repeats import fold_repeats, note_repeats
from data.stored import StoredRecords, is_stored_list, open_stored

# Rows of a list, behind its path: the first, and the one behind the last, counted from 0 within the split, as slices.
ROWS = re.compile(r"(.+)#rows=(\d*):(\d*)", re.S)
# What stands in the column `files` for an image that is not there; its row is left out.
NO_FILE = (0, 0)


def open_list(path: str | Path, data_dir: str | Path | None, split: str | None) -> Records:
    """Read one list; `split` picks the rows of a csv: "train", "test", or None for all. As `open_lists`."""
    return open_lists([(path, split)], data_dir)[0]


def open_lists(wanted: Sequence[tuple[str | Path, str | None]], data_dir: str | Path | None) -> list[Records]:
    """Read lists, [(path, split), ...]; every row is checked, and every image to exist.

    A list is an SOP list, a csv, a folder per label, or tar or parquet files (data/formats). A relative path of a list
    is looked up below `data_dir`, then as it stands. Where `data_dir` is None that is the embedded set, and a list that
    is not there brings its own folder. Images to test with stand once in their list (data/repeats.py). Raises
    InputError for a missing folder, and one for all that is wrong with the lists, a line each, by file:line.
    """
    check_opencv()
    locations = [find_list(path, data_dir) for path, _ in wanted]
    opened = []
    # Keys of a dict: in order, and each once, since a csv that is opened for both splits says some things twice.
    problems = {}
    for (path, split), (file, folder) in zip(wanted, locations):
        records, sentences = _read(path, file, folder, split)
        opened.append(records)
        problems.update(dict.fromkeys(sentences))
    problems = first_faults(list(problems), "; python reader.py check shows all")
    if not problems and data_dir is None:
        problems = _mixed_sets(wanted, [folder for _, folder in locations])
    if problems:
        raise InputError("\n".join(problems))
    return opened


def _mixed_sets(wanted: Sequence[tuple[str | Path, str | None]], folders: list[Path]) -> list[str]:
    """A sentence where one list is the embedded set's and another is not, which nobody can mean; else none."""
    is_embedded = [folder.resolve() == EMBEDDED.resolve() for folder in folders]
    if len(set(is_embedded)) < 2:
        return []
    other_path, other_split = wanted[is_embedded.index(False)]
    path, split = wanted[is_embedded.index(True)]
    advice = f"give --{split}_list"
    if split == "test":
        advice += ", or --val_classes"
    return [
        f"the {other_split} list is {str(other_path)!r}, but the {split} list is the embedded set's {str(path)!r}; "
        f"{advice}"
    ]


def data_folder(data_dir: str | Path | None) -> Path:
    """The folder that paths start from. Raises InputError where there is none."""
    folder = embedded_data() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data_dir {str(folder)!r} is not a folder (Stanford Online Products: sh data/download_sop.sh)"
        )
    return folder


def is_list(inputs: Sequence[str | Path]) -> bool:
    """Whether what --input names is one list, and not images."""
    if len(inputs) != 1:
        return False
    path = Path(split_rows(inputs[0])[0])
    is_called_so = path.suffix.lower() in FORMATS or is_archive(path) or is_stored_list(path)
    return is_called_so or bool(archives_of(path))


def find_list(path: str | Path, data_dir: str | Path | None) -> tuple[Path | None, Path]:
    """(file or folder of a list, or None where it is nowhere; the folder that its paths start from).

    Behind a path may stand which of its rows are meant, as `list.csv#rows=0:1000`.
    """
    path, _ = split_rows(path)
    folder = data_folder(data_dir)
    below = Path(os.path.join(folder, path))
    # An absolute path names no list of the embedded set, though joined to its folder it would be found.
    names_own_folder = data_dir is None and os.path.isabs(path)
    if _exists(below) and not names_own_folder:
        return below, folder
    # Then as it stands; without a data_dir such a list has its images beside it.
    here = Path(path)
    if not _exists(here):
        return None, folder
    return here, here.parent if data_dir is None else folder


def split_rows(path: str | Path) -> tuple[str | Path, slice | None]:
    """(a list's path, the rows of it that are meant; None for all). Raises InputError for rows that are none."""
    match = ROWS.fullmatch(str(path)) if "#rows=" in str(path) else None
    if match is None:
        return path, None
    first, stop = (int(text) if text else None for text in match.groups()[1:])
    if stop is not None and stop <= (first or 0):
        raise InputError(f"{str(path)!r}: no row is from {first or 0} to before {stop}")
    return match[1], slice(first, stop)


def _exists(path: Path) -> bool:
    return path.is_file() or path.is_dir() or bool(archives_of(path))


def read_list(path: str | Path, data_dir: str | Path | None, split: str | None) -> tuple[Records | None, list[str]]:
    """(Records of the rows that are right, or None for no such row; sentences on all that is wrong, by file:line).

    split: "train", "test", "list" (unnamed, a train list's rules), or None: all rows, of whatever split.
    """
    file, folder = find_list(path, data_dir)
    return _read(path, file, folder, split)


def _read(path: str | Path, file: Path | None, folder: Path, split: str | None) -> tuple[Records | None, list[str]]:
    """As `read_list`, of a list that was looked for already: `file` and `folder` are what `find_list` gave."""
    if file is None:
        return None, [f"no list {str(path)!r}, neither in {str(folder)!r} nor from here"]
    problems = Problems()
    rows = split_rows(path)[1]
    if is_stored_list(file):
        try:
            records = open_stored(file, folder, split, rows)
        except InputError as error:
            return None, [str(error)]
    elif file.is_dir() and not archives_of(file):
        records = _read_folder(file, problems)
    else:
        records = _read_file(file, folder, split, problems)
    if records is None:
        return None, problems.lines(file)
    if rows is not None and not is_stored_list(file):
        if (rows.start or 0) >= len(records):
            return None, [
                f"{file}: it has {counted(len(records), 'such row')}; #rows={rows.start or 0}:... names none of them"
            ]
        records = records.take(rows)

    # Wrong names are a problem of the list, but none that its rows could not be read with.
    try:
        records = dataclasses.replace(records, names=read_names(records.source))
    except InputError as error:
        problems.add(0, str(error))
    # An image that is tested on twice would find itself; one that is trained with twice is only drawn more often.
    if split == "test":
        records = fold_repeats(records, problems)
        _check_roles(records, problems)
    elif split is not None and not isinstance(records, StoredRecords):
        records = note_repeats(records)
    notes = (*problems.notes_of(file), *records.notes)
    return dataclasses.replace(records, notes=notes), problems.lines(file)


def _read_folder(folder: Path, problems: Problems) -> Records | None:
    """The Records of a folder per label; None where it is none."""
    columns = parse_folder(folder, problems)
    if columns is None:
        return None
    files = [_file_key(path) for path in columns["paths"]]
    return Records.of_columns(folder, {**columns, "files": files})


def _read_file(file: Path, folder: Path, split: str | None, problems: Problems) -> Records | None:
    """The Records of a list whose images lie below `folder`; None where not one row is right."""
    columns = parse(file, split, problems)
    if columns is None:
        return None
    # Images within archives have been seen there.
    if "files" in columns:
        return Records.of_columns(file, columns)
    # A row whose image is missing is a problem; it is kept until all columns are there, and left out of them together.
    paths = []
    files = []
    is_there = []
    lines = columns.get("lines") or [0] * len(columns["paths"])
    for line, written in zip(lines, columns["paths"], strict=True):
        if is_text(written):
            paths.append(written)
            files.append(_text_key(written))
            is_there.append(True)
            continue
        path = str(folder / written)
        problem = _path_problem(written, path, folder)
        if problem is None:
            files.append(_file_key(path))
        else:
            problems.add(line, problem)
            files.append(NO_FILE)
        paths.append(path)
        is_there.append(problem is None)
    if not any(is_there):
        return None
    return Records.of_columns(file, {**columns, "paths": paths, "files": files}).take(np.array(is_there))


def _path_problem(written: str, path: str, folder: Path) -> str | None:
    """What is wrong with a path of a list, which is `path` from here; None where an image may be there."""
    if leads_out(written, folder):
        return f"path {written!r} leads out of data_dir {str(folder)!r}; give a folder that holds it"
    if not os.path.isfile(file_of(path)):
        return f"no {noun_of([path])} {file_of(path)!r}"
    return None


def leads_out(written: str, folder: Path) -> bool:
    """Whether a path of a list leads out of the folder that its paths start from."""
    if ".." not in written and not os.path.isabs(written):
        return False
    root = os.path.join(os.path.abspath(folder), "")
    return not os.path.abspath(folder / written).startswith(root)


def _file_key(path: str) -> tuple[int, int]:
    """What tells a file apart from all others on this machine, and a clip from all others of its file."""
    status = os.stat(file_of(path))
    start = start_of(path)
    if start is not None:
        return _text_key(f"{status.st_dev} {status.st_ino} {start}")
    return status.st_dev, status.st_ino


def _text_key(text: str) -> tuple[int, int]:
    """What tells a text apart from all others, and from files."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _check_roles(records: Records, problems: Problems) -> None:
    """Add to `problems` where a list to test with has nobody who asks, or nothing that can be found."""
    split = SPLITS["test"]
    if not records.is_query.any():
        problems.add(0, f"no row of the split {split} has is_query True, so nobody asks")
    if not records.is_gallery.any():
        problems.add(0, f"no row of the split {split} has is_gallery True, so nothing can be found")
