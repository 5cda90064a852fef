"""Files that are written whole or not at all, and read without executing anything of what is in them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import InputError, first_line, near_match
from core.text import one_of_several


def run_folder(source: str | Path) -> Path:
    """The folder of a run, given itself or one of its .pt files."""
    path = Path(source)
    if path.is_dir():
        return path
    return path.parent


def near_file(missing: Path) -> str:
    """Say which file or folder beside one that is not there may be meant, as core.errors.near_match does."""
    folder = next(folder for folder in missing.parents if folder.is_dir())
    if folder != missing.parent:
        return f" There is no folder {str(missing.parent)!r}."
    beside = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return near_match(missing.name, sorted(beside))


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


def check_folder(path: str | Path) -> None:
    """Raise InputError where a folder to write into cannot be made; nothing is made yet."""
    place = os.path.abspath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise InputError(f"cannot write to folder {str(path)!r}: {place!r} is a file")
    if not os.access(place, os.W_OK):
        raise InputError(f"cannot write to folder {str(path)!r}: permission denied")


def check_output(path: str | Path, suffixes: str | Sequence[str]) -> None:
    """Raise InputError where a file cannot be written, or may not be called so; nothing is made yet.

    suffixes: what the path may end in, one or several.
    """
    if isinstance(suffixes, str):
        suffixes = (suffixes,)
    if Path(path).suffix not in suffixes:
        raise InputError(f"cannot write {str(path)!r}: it has to end in {one_of_several(suffixes)}")
    check_folder(Path(path).parent)


def open_output(path: str | Path | None, suffixes: str | Sequence[str]) -> Path | None:
    """A path to write a file to, its folder made; None for None. Raises InputError as `check_output`."""
    if path is None:
        return None
    check_output(path, suffixes)
    make_folder(Path(path).parent)
    return Path(path)


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


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_flags(file: str | Path, part: str = "flags") -> dict[str, Any]:
    """The flags in a run's config.json, {name: value}, or another part of it. Raises InputError when it is none."""
    try:
        return dict(json.loads(Path(file).read_text())[part])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {part} from {str(file)!r}: {type(error).__name__}: {error}") from None
