"""Rows of embeddings in a file, written as they are made: known again by their image, or gone with the process."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from core.arrays import RowFile
from core.console import log
from core.errors import InputError
from core.items import file_of
from core.locks import lock_for_writing
from core.slices import slices_within
from data.records import Records

KEY_BYTES = 16  # of the key of an image; as many as four numbers of an embedding
KEY_NUMBERS = KEY_BYTES // 4


class KeyedRows:
    """A RowFile of embeddings, and beside it one of keys, that tell which image each row is of.

    Rows come in any order; `find` tells in which row an image stands.
    """

    def __init__(self, rows: RowFile, keys: RowFile):
        self.rows = rows
        self.keys = keys
        self.width = rows.width
        # A process may have been killed after it wrote to one file and before it wrote to the other.
        self.cut(min(len(rows), len(keys)))

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, embeddings: np.ndarray, keys: np.ndarray) -> None:
        """Write embeddings (n, width) of the images with these keys (n, KEY_BYTES) uint8."""
        self.keys.append(keys.view("<f4"))
        self.rows.append(embeddings)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The first row of each of the images with keys (N, KEY_BYTES): (N,) int64, -1 for none."""
        if not len(self):
            return np.full(len(keys), -1)
        row_of = {}
        for row, key in enumerate(self.keys.mapped().view(np.uint8)):
            row_of.setdefault(key.tobytes(), row)
        return np.array([row_of.get(key.tobytes(), -1) for key in keys], dtype=np.int64)

    def cut(self, rows: int) -> None:
        """Forget all but the first rows."""
        self.rows.cut(rows)
        self.keys.cut(rows)


class OrderedRows:
    """The embeddings of N images out of a RowFile, read as if that were in their order.

    order (N,) int64: the row of each.
    """

    def __init__(self, rows: RowFile, order: np.ndarray):
        self.rows = rows
        self.order = order
        self.width = rows.width

    def __len__(self) -> int:
        return len(self.order)

    def head(self, rows: int) -> np.ndarray:
        """The first rows, (n, width) with n up to `rows`."""
        return self.rows.mapped()[self.order[:rows]]

    def blocks(self, memory: int = 2**22) -> Iterator[np.ndarray]:
        """Yield all rows in arrays (n, width) of `memory` bytes or less, one row at least."""
        for block in slices_within(len(self), 4 * self.width, memory):
            yield self.rows.mapped()[self.order[block]]

    def mapped(self) -> np.ndarray:
        """All of them, in memory."""
        return self.rows.mapped()[self.order]


def image_keys(records: Records) -> np.ndarray:
    """What tells an image and its state from all others, (N, KEY_BYTES) uint8: path, box, size, time of change."""
    keys = np.empty((len(records), KEY_BYTES), np.uint8)
    for row, path in enumerate(records.paths.tolist()):
        try:
            status = os.stat(file_of(path))
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # gone since it was listed, as reading it will tell
            state = (-1, -1)
        box = records.box_of(row)
        if box is not None:
            box = box.tolist()
        text = os.fsencode(path) + b"\0" + repr((state, box)).encode()
        digest = hashlib.blake2b(text, digest_size=KEY_BYTES).digest()
        keys[row] = np.frombuffer(digest, np.uint8)
    return keys


@contextlib.contextmanager
def resumable_rows(
    path: str | Path, made: dict, width: int, go_on: bool = False, drops_others: bool = False
) -> Iterator[KeyedRows]:
    """KeyedRows in the file `path`, behind a line of JSON that tells how they were made, and in `path`.keys.

    Both are removed when all went well. made: plain JSON on all that decides a row beside its image. go_on: keep those
    that a stopped process left. drops_others: those that something else made are no mistake, but forgotten. Raises
    InputError where those are made by something else, or are there unasked, and while another process writes them.
    """
    path = Path(path)
    keys_path = path.with_name(f"{path.name}.keys")
    made = {"keyed": True, **made}
    text = json.dumps(made, sort_keys=True).encode()
    # Padded to 64 bytes, so that the numbers behind it stand as arrays in memory do.
    line = text + b" " * (-(len(text) + 1) % 64) + b"\n"
    try:
        file = _open_unbuffered(path)
        keys_file = _open_unbuffered(keys_path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    with file, keys_file:
        _refuse_second_writer(file, path)
        first_line = file.readline()
        rows = RowFile(file, width, path, len(first_line))
        if drops_others and len(rows) and first_line != line:
            log(f"what a stopped run has done in {str(path)!r} was made otherwise, and is made anew")
            rows.cut(0)
            keys_file.truncate(0)
        if not len(rows):
            _begin(file, line, path)
            rows = RowFile(file, width, path, len(line))
        elif not go_on:
            raise InputError(f"{str(path)!r} is what a stopped run has done; go on with --continue, or remove it")
        elif first_line != line:
            raise InputError(f"{str(path)!r} cannot be continued; what differs: {_differences(first_line, made)}")
        yield KeyedRows(rows, RowFile(keys_file, KEY_NUMBERS, keys_path))
    path.unlink(missing_ok=True)
    keys_path.unlink(missing_ok=True)


def read_made(path: str | Path) -> dict:
    """How the rows of a stopped process in the file `path` were made; nothing where there are none, or no such file."""
    try:
        with open(path, "rb") as file:
            made = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _begin(file: BinaryIO, line: bytes, path: Path) -> None:
    """Make the first line of an open file all that is in it."""
    try:
        file.seek(0)
        file.truncate()
        file.write(line)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _refuse_second_writer(file: BinaryIO, path: Path) -> None:
    """Raise InputError where another process has the file open here; it is this one's until it is closed."""
    try:
        lock_for_writing(file)
    except OSError:
        raise InputError(f"another process is writing {str(path)!r}; try again when it is done") from None


def _open_unbuffered(path: Path):
    """A file to read and write, made if it is not there."""
    mode = "r+b" if path.exists() else "w+b"
    return open(path, mode, buffering=0)


@contextlib.contextmanager
def temporary_rows(folder: str | Path | None, width: int) -> Iterator[RowFile]:
    """A RowFile in `folder` (None: that of temporary files) that is gone with its context, or with its process.

    Raises InputError where the folder cannot be written to.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise InputError(f"cannot write to folder {str(folder)!r}: {error.strerror}") from None
    with file:
        yield RowFile(file, width, folder or tempfile.gettempdir())


def _differences(line: bytes, made: dict) -> str:
    """Names of the facts in a line of JSON, even if it is not valid JSON, that are not those of `made`."""
    try:
        theirs = dict(json.loads(line))
    except (ValueError, TypeError):
        return "it is no file of ours"
    return ", ".join(name for name in {**theirs, **made} if theirs.get(name) != made.get(name))
