"""Files that are written whole or not at all, and read without executing anything of what is in them."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.errors import InputError, first_line
from core.slices import slices_within


def run_folder(source: str | Path) -> Path:
    """The folder of a run, given itself or one of its .pt files."""
    path = Path(source)
    if path.is_dir():
        return path
    return path.parent


def make_folder(path: str | Path) -> Path:
    """Create a folder to write into. Raises InputError when that cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to folder {str(path)!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to folder {str(path)!r}: permission denied")
    return folder


def open_output(path: str | Path | None, suffixes: str | Sequence[str]) -> Path | None:
    """A path to write a file to, its folder made; None for None. Raises InputError when that cannot be.

    suffixes: what the path may end in, one or several.
    """
    if path is None:
        return None
    if isinstance(suffixes, str):
        suffixes = (suffixes,)
    path = Path(path)
    if path.suffix not in suffixes:
        raise InputError(f"cannot write {str(path)!r}: it has to end in {' or '.join(suffixes)}")
    make_folder(path.parent)
    return path


@contextlib.contextmanager
def atomic_write(path: str | Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write bytes to, which takes the place of `path` when the context ends well, else is gone.

    durable: return when it is on the disk. Whatever happens meanwhile, a lost power supply included, the old or the new
    file is there. Raises OSError where the disk refuses.
    """
    path = Path(path)
    if durable:
        # Always the same name, so that what a killed process left is written over by the next one.
        temporary = path.with_name(f"{path.name}.tmp")
    else:
        # The process's own: two may write the same file at a time.
        temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync(path.parent)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """`atomic_write` of a file that the user asked for: raises InputError where that cannot be."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None


def replacing_synced(path: str | Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """`atomic_write`, durable."""
    return atomic_write(path, durable=True)


@contextlib.contextmanager
def synced(path: str | Path) -> Iterator[BinaryIO]:
    """A file, which is not there yet, to write bytes to; it is on the disk when the context ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync(path: str | Path) -> None:
    """Return when a file, or the names of a folder's files, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON to a file that is not there yet, and return when it is on the disk."""
    with synced(path) as file:
        file.write(json.dumps(content).encode())


def replace_json(path: str | Path, content: Any) -> None:
    """Write indented JSON in place of what is there; the old or the new file is on the disk, whatever happens."""
    with atomic_write(path, durable=True) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def write_json_once(path: str | Path, content: Any) -> bool:
    """Write JSON to a file that is not there, whole from the first moment; False where another process was faster."""
    path = Path(path)
    own = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(own, content)
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def read_json(path: str | Path) -> Any:
    """Read JSON. Raises InputError for anything else, FileNotFoundError, as read_npy, for a file that is not there."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # the last for brackets within brackets without end
        raise InputError(f"cannot read {str(path)!r}: {first_line(error)}") from None


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


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_flags(file: str | Path, part: str = "flags") -> dict[str, Any]:
    """The flags in a run's config.json, {name: value}, or another part of it. Raises InputError when it is none."""
    try:
        return dict(json.loads(Path(file).read_text())[part])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {part} from {str(file)!r}: {type(error).__name__}: {error}") from None


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
