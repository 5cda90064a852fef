"""The embedded emoji set, unpacked when it is asked for."""

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from core.errors import InputError

EMBEDDED = Path(__file__).parent / "emoji"
MOST_UNPACKED = 2**30  # bytes that an archive may become


def embedded_data():
    """The folder of the embedded emoji set, unpacked beside its archive the first time and when the archive changed.

    The table of names, if there is one beside the archive, is unpacked with it.
    """
    archive, stamp = EMBEDDED.with_suffix(".zip"), EMBEDDED / ".archive"
    names = EMBEDDED.with_name(f"{EMBEDDED.name}_names.csv")
    if not archive.is_file():
        raise InputError(f"the embedded data set {str(archive)!r} is missing; clone the repository whole")
    sources = [archive, names] if names.is_file() else [archive]
    checksum = " ".join(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources)
    if stamp.is_file() and stamp.read_text() == checksum:
        return EMBEDDED
    folder = Path(tempfile.mkdtemp(dir=EMBEDDED.parent, prefix=".unpacking-"))
    try:
        _unpack(archive, folder / "new")
        if names.is_file():
            shutil.copyfile(names, folder / "new" / "label_names.csv")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        shutil.rmtree(folder)
        raise InputError(f"cannot unpack the embedded data set {str(archive)!r}: {error}") from None
    (folder / "new" / stamp.name).write_text(checksum)
    try:
        if EMBEDDED.exists():
            os.rename(EMBEDDED, folder / "old")
        os.rename(folder / "new", EMBEDDED)
    except OSError:
        if not stamp.is_file():  # else another process was faster, and its copy is whole
            raise
    shutil.rmtree(folder)
    return EMBEDDED


def _unpack(archive, folder):
    """Unpack a zip. Raises BadZipFile, and writes nothing, for names that lead out of `folder` and for a bomb."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
                raise zipfile.BadZipFile(f"{name!r} in it leads out of the folder")
        size = sum(member.file_size for member in file.infolist())
        if size > MOST_UNPACKED:
            raise zipfile.BadZipFile(f"it would take {size:,} bytes, more than {MOST_UNPACKED:,}")
        file.extractall(folder)
