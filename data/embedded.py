"""The embedded emoji set, unpacked when it is asked for."""

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from core.errors import InputError
from core.text import counted

EMBEDDED = Path(__file__).parent / "emoji"
MOST_UNPACKED = 2**30  # bytes that an archive may become


def embedded_data() -> Path:
    """The folder of the embedded emoji set, unpacked beside its archive the first time and when the archive changed.

    The table of names, if there is one beside the archive, is unpacked with it. Raises InputError without the archive.
    """
    archive = EMBEDDED.with_suffix(".zip")
    names = EMBEDDED.with_name(f"{EMBEDDED.name}_names.csv")
    stamp = EMBEDDED / ".archive"
    if not archive.is_file():
        raise InputError(f"the embedded data set {str(archive)!r} is missing; clone the repository whole")
    sources = [archive, names] if names.is_file() else [archive]
    # Of what it was unpacked from the folder keeps a checksum, so that a new archive is noticed.
    checksum = " ".join(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources)
    if stamp.is_file() and stamp.read_text() == checksum:
        return EMBEDDED

    # Unpacked beside its final name, and renamed once it is whole: what stands there is never half of the set.
    folder = Path(tempfile.mkdtemp(dir=EMBEDDED.parent, prefix=".unpacking-"))
    new = folder / "new"
    try:
        _unpack(archive, new)
        if names.is_file():
            shutil.copyfile(names, new / "label_names.csv")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        shutil.rmtree(folder)
        raise InputError(f"cannot unpack the embedded data set {str(archive)!r}: {error}") from None
    (new / stamp.name).write_text(checksum)
    try:
        if EMBEDDED.exists():
            os.rename(EMBEDDED, folder / "old")
        os.rename(new, EMBEDDED)
    except OSError:
        # With a stamp there another process was faster, and its copy is whole.
        if not stamp.is_file():
            raise
    shutil.rmtree(folder)
    return EMBEDDED


def unpack_what_is_named(path: str | Path) -> None:
    """Unpack the embedded set where a path that is not there lies within it, as data/emoji/heart of a new clone."""
    if not os.path.exists(path) and Path(os.path.abspath(path)).is_relative_to(EMBEDDED):
        embedded_data()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip. Raises BadZipFile, and writes nothing, for names that lead out of `folder` and for a bomb."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
                raise zipfile.BadZipFile(f"{name!r} in it leads out of the folder")
        size = sum(member.file_size for member in file.infolist())
        if size > MOST_UNPACKED:
            raise zipfile.BadZipFile(f"it would take {counted(size, 'byte', ',')}, more than {MOST_UNPACKED:,}")
        file.extractall(folder)
