"""Images that people give to an index: files in a folder of its own, called by their contents."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from core.errors import InputError
from core.files import atomic_write
from retrieval.index.folder import DiskRefuses

FOLDER = "uploads"
NAME_LENGTH = 32  # hexadecimal digits of a file's name: 128 bits of its SHA-256
# What files of each format are called, by how they begin.
SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II": ".tif",
    b"MM": ".tif",
}


class Uploads:
    """The folder below an index in which uploaded images lie. No name of a request ever becomes a part of a path."""

    def __init__(self, index_folder: str | Path, name: str = FOLDER):
        self.folder = Path(os.path.abspath(index_folder)) / name

    def path_of(self, content: bytes, suffix: str) -> Path:
        """Where a file of this content lies, or would."""
        digest = hashlib.sha256(content).hexdigest()[:NAME_LENGTH]
        return self.folder / f"{digest}{suffix}"

    def keep(self, content: bytes, suffix: str) -> tuple[str, bool]:
        """(path, whether it was written now) of a file with this content, which is on the disk when this returns.

        Raises DiskRefuses where it cannot be written.
        """
        path = self.path_of(content, suffix)
        if path.is_file():
            return str(path), False
        try:
            self.folder.mkdir(exist_ok=True)
            with atomic_write(path, durable=True) as file:
                file.write(content)
        except OSError as error:
            raise DiskRefuses(f"cannot write to {str(self.folder)!r}: {error.strerror or error}") from None
        return str(path), True

    def forget(self, paths: Iterable[str]) -> None:
        """Remove those of some files that lie here; others are not touched."""
        for path in paths:
            if Path(path).parent == self.folder:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def suffix_of(content: bytes) -> str:
    """What the file of an image is to end in. Raises InputError for no known format."""
    for start, suffix in SUFFIXES.items():
        if content.startswith(start):
            return suffix
    raise InputError("it is no image of a known format")
