"""Arrays in files: written whole or not at all, and read without executing anything of what is in them.

Apart from core/files.py, which every script imports before its flags are read: loading numpy takes a tenth of a second.
"""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.errors import InputError, first_line
from core.files import replacing, synced
from core.slices import slices_within


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write one array to a file that is not there yet, and return when it is on the disk."""
    with synced(path) as file:
        np.save(file, array, allow_pickle=False)


def read_npy(path: str | Path, mmap_mode: str | None = None) -> np.ndarray:
    """Read one array, or map it (numpy's mmap_mode). Raises InputError for no .npy and for pickles in it.

    A file that is not there raises FileNotFoundError, so that a reader of changing files can look again.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise InputError(f"{str(path)!r} is no .npy file of a plain array: {first_line(error)}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{str(path)!r} is no .npy file of a plain array: it is a zip of files")
    return array


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as numpy.savez does. Raises InputError if that fails.

    A RowFile, or what has its length, width and blocks, stands for an array and is written block by block.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if hasattr(array, "blocks"):
                    header = {"descr": "<f4", "fortran_order": False, "shape": (len(array), array.width)}
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in array.blocks():
                        member.write(block.tobytes())
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path: str | Path, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read named arrays, {name: array}. Raises InputError for no .npz, for pickles in it, and for a missing name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except Exception as error:  # as in read_npy
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: {first_line(error)}") from None
    # Members of the zip whose names do not end in .npy come as bytes.
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: it holds a file {strange[0]!r}")
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(f"{str(path)!r} holds {', '.join(arrays) or 'nothing'}; there is no {', '.join(missing)}")
    return arrays


class RowFile:
    """A table (N, width) of float32 in an open unbuffered file, that grows row by row and is read block by block.

    place: the file's path, or its folder where it has no name. The rows begin at byte `start`; part of a row at the
    end, as a killed process leaves it, does not count.
    """

    def __init__(self, file: BinaryIO, width: int, place: str | Path, start: int = 0):
        self.file = file
        self.width = width
        self.place = place
        self.start = start
        self.row_bytes = 4 * width
        self.rows = (file.seek(0, os.SEEK_END) - start) // self.row_bytes

    def __len__(self) -> int:
        return self.rows

    def cut(self, rows: int) -> None:
        """Forget all but the first rows."""
        self.rows = rows
        self.file.truncate(self._position(rows))

    def append(self, rows: np.ndarray) -> None:
        """Write rows (n, width) behind the others. Raises InputError where the disk refuses."""
        left = memoryview(np.ascontiguousarray(rows, "<f4").tobytes())
        try:
            self.file.seek(self._position(self.rows))
            # An unbuffered file may take less at a time than it is given.
            while left:
                written = self.file.write(left)
                left = left[written:]
        except OSError as error:
            raise InputError(f"cannot write {str(self.place)!r}: {error.strerror}") from None
        self.rows += len(rows)

    def head(self, rows: int) -> np.ndarray:
        """The first rows, (n, width) with n up to `rows`."""
        return self._read(0, min(rows, self.rows))

    def blocks(self, memory: int = 2**22) -> Iterator[np.ndarray]:
        """Yield all rows in arrays (n, width) of `memory` bytes or less, one row at least."""
        for block in slices_within(self.rows, self.row_bytes, memory):
            yield self._read(block.start, block.stop - block.start)

    def mapped(self) -> np.ndarray:
        """All rows as an array (N, width) that takes no memory of its own: what is read of it can be read again."""
        return np.memmap(self.file, "<f4", "c", self.start, (self.rows, self.width))

    def _position(self, row: int) -> int:
        return self.start + self.row_bytes * row

    def _read(self, first: int, count: int) -> np.ndarray:
        self.file.seek(self._position(first))
        return np.fromfile(self.file, "<f4", count * self.width).reshape(count, self.width)
