"""What the files of an index's items held when they were embedded, so that a later look tells which have changed.

`contents.npy` stands beside the card: for each item that a file was looked at for its id, the file's size and time of
change, and a hash of its bytes. Ids are never used again and a replaced item has a new one, so what is known of an id
is true for as long as the item is there. It is knowledge beside the index, not part of it: where it is missing, or
older than the index, files are embedded again and nothing else is lost.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Self

import numpy as np

from core.arrays import read_npy
from core.console import log
from core.errors import InputError
from core.files import replacing_synced
from core.items import file_of, is_text, member_of
from retrieval.index.folder import CONTENTS, writing
from retrieval.index.index import Index

DIGEST_BYTES = 16
COLUMNS = [("id", "<i8"), ("size", "<i8"), ("mtime", "<i8"), ("digest", "u1", DIGEST_BYTES)]
BLOCK = 2**20  # bytes hashed at a time


@dataclass(frozen=True)
class FileState:
    """A file without opening it: bytes, and nanoseconds of its last change."""

    size: int
    mtime: int

    @classmethod
    def of(cls, path: str) -> Self | None:
        """None where there is no such file."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


def digest_of(path: str) -> bytes | None:
    """A hash of a file's bytes (BLAKE2b, 16 bytes), None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


class Contents:
    """{id: (FileState, digest)} of the items of an index."""

    def __init__(self, known: dict[int, tuple[FileState, bytes]]):
        self.known = known

    @classmethod
    def read(cls, index: Index) -> Self:
        """What is known of an index's items; nothing where there is no such file, or one that is not ours."""
        contents = cls.read_all(index)
        numbers = np.array(list(contents.known), np.int64)
        return cls({number: contents.known[number] for number in numbers[index.rows.has(numbers)].tolist()})

    @classmethod
    def read_all(cls, index: Index) -> Self:
        """As `read`, with what was known of items that are none any more."""
        path = index.folder / CONTENTS
        try:
            rows = read_npy(path)
        except FileNotFoundError:
            return cls({})
        except InputError as error:
            log(f"note: {error}; files are looked at anew")
            return cls({})
        if rows.dtype != np.dtype(COLUMNS) or rows.ndim != 1:
            log(f"note: {str(path)!r} is no file of ours; files are looked at anew")
            return cls({})
        known = {}
        for number, size, mtime, digest in zip(
            rows["id"].tolist(), rows["size"].tolist(), rows["mtime"].tolist(), rows["digest"]
        ):
            known[number] = (FileState(size, mtime), digest.tobytes())
        return cls(known)

    def write(self, index: Index) -> None:
        """Keep what is known of the items that there are. Raises InputError where the disk refuses."""
        ids = np.array(sorted(self.known), np.int64)
        ids = ids[index.rows.has(ids)]
        rows = np.zeros(len(ids), COLUMNS)
        for row, number in enumerate(ids.tolist()):
            state, digest = self.known[number]
            rows[row] = (number, state.size, state.mtime, np.frombuffer(digest, np.uint8))
        with writing(index.folder), replacing_synced(index.folder / CONTENTS) as file:
            np.save(file, rows, allow_pickle=False)

    def learn(self, index: Index, states: dict[str, FileState]) -> None:
        """Look at the files of items, {path of the file: its state before it was embedded}.

        A file that has changed since is left out, so that the next look finds it changed.
        """
        paths = [path if is_text(path) else file_of(path) for path in index.rows.paths()]
        digests: dict[str, bytes | None] = {}
        for number, path in zip(index.rows.ids.tolist(), paths):
            if path not in states:
                continue
            if path not in digests:
                digest = digest_of(path)
                digests[path] = digest if FileState.of(path) == states[path] else None
            if digests[path] is not None:
                self.known[number] = (states[path], digests[path])


def states_of(paths: list[str]) -> dict[str, FileState]:
    """{file: its state} of the files of some items, as they are now; without texts, images within other files, and what
    is gone."""
    states = {}
    for path in paths:
        # A folder is not watched for images within another file, which would have to be read whole.
        if is_text(path) or member_of(path) is not None or file_of(path) in states:
            continue
        state = FileState.of(file_of(path))
        if state is not None:
            states[file_of(path)] = state
    return states


def keep_contents(index: Index, states: dict[str, FileState]) -> None:
    """Remember what the files of items held, as `states_of` saw them before they were embedded."""
    contents = Contents.read(index)
    contents.learn(index, states)
    contents.write(index)
