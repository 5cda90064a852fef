"""Arrays on disk: .npz files written whole or not at all, read without executing anything."""

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
