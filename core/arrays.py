"""Arrays in files: written whole or not at all, and read without executing anything of what is in them.

Apart from core/files.py, which every script imports before its flags are read: loading numpy takes a tenth of a second.
"""

import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from core.errors import InputError, first_line
from core.files import replacing, synced
from core.slices import slices_within
from core.text import counted

MAPPED = 2**28  # bytes of an .npz from which on its embeddings stay on the disk
# Of a zip's members: bytes before their name, of the field that tells of large ones, and a field of padding, of an id
# that nobody reads (zipalign's), its size behind it.
MEMBER_HEADER, ZIP64_FIELD = 30, 20
PADDING_FIELD, EXTRA_FIELD = 0xD935, struct.Struct("<HH")
ALIGNED = 64


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
    """Write named arrays as numpy.savez does, each where it can be mapped. Raises InputError if that fails.

    What stands for an array, see `write_array`.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(_aligned_member(f"{name}.npy", file.tell()), "w", force_zip64=True) as member:
                write_array(member, array)


def write_array(file: IO[bytes], array: Any) -> None:
    """Write an array to an open file as .npy; a RowFile, or what has its length, width and blocks, block by block."""
    if hasattr(array, "blocks"):
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(array), array.width)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in array.blocks():
            file.write(block.tobytes())
    else:
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def _aligned_member(name: str, start: int) -> zipfile.ZipInfo:
    """A member whose header begins at byte `start`, padded so that its array can be mapped as numbers in memory are."""
    member = zipfile.ZipInfo(name)
    begin = start + MEMBER_HEADER + len(name.encode()) + ZIP64_FIELD + EXTRA_FIELD.size
    padding = -begin % ALIGNED
    member.extra = EXTRA_FIELD.pack(PADDING_FIELD, padding) + bytes(padding)
    return member


def map_npz(path: str | Path, name: str) -> np.ndarray | None:
    """One array of an .npz, mapped copy-on-write from where it lies in the file; None where that cannot be.

    So it is where there is none, or it is compressed, or begins where no number may, as in files of others by chance.
    Raises InputError for no .npz and for an array that does not fill its place.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            member = archive.NameToInfo.get(f"{name}.npy")
            if member is None or member.compress_type != zipfile.ZIP_STORED:
                return None
            file.seek(member.header_offset + MEMBER_HEADER - 4)
            begin = member.header_offset + MEMBER_HEADER + sum(struct.unpack("<HH", file.read(4)))
            file.seek(begin)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read_header[np.lib.format.read_magic(file)](file)
            start = file.tell()
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except Exception as error:  # as in read_npy
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: {first_line(error)}") from None
    if is_fortran or dtype.hasobject or start % dtype.alignment or not math.prod(shape):
        return None
    if begin + member.file_size != start + dtype.itemsize * math.prod(shape):
        raise InputError(f"{str(path)!r} is damaged: {name} are {shape} {dtype} in {counted(member.file_size, 'byte')}")
    return np.memmap(path, dtype, "c", start, shape)


def read_npz(path: str | Path, required: Sequence[str] = (), mapped: str | None = None) -> dict[str, np.ndarray]:
    """Read named arrays, {name: array}. Raises InputError for no .npz, for pickles in it, and for a missing name.

    mapped: an array that stays on the disk where it can (`map_npz`) and takes MAPPED bytes or more.
    """
    array = None
    if mapped is not None and os.path.exists(path) and os.path.getsize(path) >= MAPPED:
        array = map_npz(path, mapped)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: array if name == mapped and array is not None else file[name] for name in file.files}
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
