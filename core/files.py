"""Arrays on disk: files written whole or not at all, read without executing anything."""

import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from core.errors import InputError


class RowFile:
    """A table (N, width) of float32 in an open unbuffered file, that grows row by row and is read block by block.

    place: the file's path, or its folder where it has no name. The rows begin at byte `start`; part of a row at the
    end, as a killed process leaves it, does not count.
    """

    def __init__(self, file, width, place, start=0):
        self.file, self.width, self.place, self.start = file, width, place, start
        self.rows = (file.seek(0, os.SEEK_END) - start) // (4 * width)

    def __len__(self):
        return self.rows

    def cut(self, rows):
        """Forget all but the first rows."""
        self.rows = rows
        self.file.truncate(self.start + 4 * self.width * rows)

    def append(self, rows):
        """Write rows (n, width) behind the others. Raises InputError where the disk refuses."""
        left = memoryview(np.ascontiguousarray(rows, "<f4").tobytes())
        try:
            self.file.seek(self.start + 4 * self.width * self.rows)
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise InputError(f"cannot write {str(self.place)!r}: {error.strerror}") from None
        self.rows += len(rows)

    def head(self, rows):
        """The first rows, (n, width) with n up to `rows`."""
        return self._read(0, min(rows, self.rows))

    def blocks(self, memory=2**22):
        """Yield all rows in arrays (n, width) of `memory` bytes or less, one row at least."""
        step = max(1, memory // (4 * self.width))
        for first in range(0, self.rows, step):
            yield self._read(first, min(step, self.rows - first))

    def mapped(self):
        """All rows as an array (N, width) that takes no memory of its own: what is read of it can be read again."""
        return np.memmap(self.file, "<f4", "c", self.start, (self.rows, self.width))

    def _read(self, first, count):
        self.file.seek(self.start + 4 * self.width * first)
        return np.fromfile(self.file, "<f4", count * self.width).reshape(count, self.width)


def run_folder(source: str | Path) -> Path:
    """The folder of a run, given itself or one of its .pt files."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def make_folder(path):
    """Create a folder to write into. Raises InputError when that cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to folder {str(path)!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to folder {str(path)!r}: permission denied")
    return folder


@contextlib.contextmanager
def replacing(path):
    """A file to write bytes to, which is in place of `path` when the context ends well, and gone when it does not.

    Raises InputError where that cannot be.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_npz(path, arrays):
    """Write named arrays as numpy.savez does. Raises InputError if that fails.

    A RowFile, or what has its length, width and blocks, stands for an array and is written block by block.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if hasattr(array, "blocks"):
                    shape = (len(array), array.width)
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in array.blocks():
                        member.write(block.tobytes())
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path, required=()):
    """Read named arrays, {name: array}. Raises InputError for no .npz, for pickles in it, and for a missing name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: {first_line(error)}") from None
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: it holds a file {strange[0]!r}")
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(f"{str(path)!r} holds {', '.join(arrays) or 'nothing'}; there is no {', '.join(missing)}")
    return arrays


def read_npy(path, mmap_mode=None):
    """Read one array, or map it (numpy's mmap_mode). Raises InputError for no .npy and for pickles in it.

    A file that is not there raises FileNotFoundError, so that a reader of changing files can look again.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # as above
        raise InputError(f"{str(path)!r} is no .npy file of a plain array: {first_line(error)}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{str(path)!r} is no .npy file of a plain array: it is a zip of files")
    return array


def first_line(error):
    """What an error says, or else its kind, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def write_npy(path, array):
    """Write one array, and return when it is on the disk."""
    with synced(path) as file:
        np.save(file, array, allow_pickle=False)


def write_json(path: str | Path, content):
    """Write JSON to a file that is not there yet, and return when it is on the disk."""
    with synced(path) as file:
        file.write(json.dumps(content).encode())


def read_json(path: str | Path):
    """Read JSON. Raises InputError for anything else, FileNotFoundError, as read_npy, for a file that is not there."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # the last for brackets within brackets without end
        raise InputError(f"cannot read {str(path)!r}: {first_line(error)}") from None


def replace_json(path, content):
    """Write indented JSON in place of what is there, by `replacing_synced`."""
    with replacing_synced(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


@contextlib.contextmanager
def replacing_synced(path):
    """A file to write bytes to, which is on the disk in place of `path` when the context ends.

    Whatever happens meanwhile, a lost power supply included, the old or the new one is there.
    """
    temporary = f"{path}.tmp"
    with synced(temporary) as file:
        yield file
    os.replace(temporary, path)
    sync(Path(path).parent)


@contextlib.contextmanager
def synced(path):
    """A file to write bytes to, which is on the disk when the context ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync(path):
    """Return when a file, or the names of a folder's files, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path):
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
