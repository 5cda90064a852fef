"""Arrays on disk: files written whole or not at all, read without executing anything."""

import contextlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from errors import InputError


def write_npz(path, arrays):
    """Write named arrays. Raises InputError where that cannot be."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None


def read_npz(path, required=()):
    """Read named arrays, {name: array}. Raises InputError for no .npz, for pickles in it, and for a missing name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} is no .npz file of plain arrays: {str(error).splitlines()[0]}") from None
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(f"{str(path)!r} holds {', '.join(arrays) or 'nothing'}; there is no {', '.join(missing)}")
    return arrays


def read_npy(path, mmap_mode=None):
    """Read one array, or map it (numpy's mmap_mode). Raises InputError for no .npy and for pickles in it.

    A file that is not there raises FileNotFoundError, so that a reader of changing files can look again.
    """
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is no .npy file of a plain array: {str(error).splitlines()[0]}") from None


def write_npy(path, array):
    """Write one array, and return when it is on the disk."""
    with synced(path) as file:
        np.save(file, array, allow_pickle=False)


def replace_json(path, content):
    """Write indented JSON in place of what is there; whatever happens meanwhile, the old or the new one is there."""
    temporary = f"{path}.tmp"
    with synced(temporary) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
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
