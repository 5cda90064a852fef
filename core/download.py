"""A file from an address: going on where an earlier try was cut off, checked, and there whole or not at all."""

import contextlib
import hashlib
import os
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError

from core.console import log
from core.locks import lock_for_writing
from core.text import counted

TRIES = 3
TIMEOUT = 30  # seconds of silence
BLOCK = 2**20


def fetch(address: str, file: Path, sha256: str | None = None, md5: str | None = None) -> None:
    """What an address has, as `file`, whose folder is there; nothing is done where that is there already.

    sha256, md5: hexadecimal, or the beginning of it. What was cut off before goes on where it ended, from `FILE.part`;
    another process that fetches the same waits. Raises OSError, HTTPException or ValueError, whose first line says why:
    no network, an answer that stays cut off, another file.
    """
    if file.is_file():
        return
    with _locked(file.with_name(f"{file.name}.lock")):
        # Another process may have been quicker.
        if file.is_file():
            return
        part = file.with_name(f"{file.name}.part")
        _fetch_whole(address, part)
        try:
            refuse_other_content(part, sha256, md5)
        except ValueError:
            part.unlink()
            raise
        part.replace(file)


def refuse_other_content(file: Path, sha256: str | None = None, md5: str | None = None) -> None:
    """Raise ValueError where the hash of a file does not begin as it should."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, kind).hexdigest()
        if not digest.startswith(expected):
            raise ValueError(f"its {kind.upper()} is {digest}, not {expected}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of several processes one at a time."""
    while True:
        with open(path, "w") as lock:
            lock_for_writing(lock, wait=True)
            # Who waited may have got the lock of a file that the one before has removed.
            if not _is_at(path, lock):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, file: IO) -> bool:
    """Whether an open file is the one that a path names now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _fetch_whole(address: str, part: Path) -> None:
    """All of an address into `part`, behind what it has already. Raises OSError or HTTPException."""
    log(f"downloading {address}")
    for last in range(TRIES):
        try:
            if _append(address, part):
                return
            error = OSError(f"cut off after {counted(part.stat().st_size, 'byte')}, which are kept for another try")
        except HTTPError:  # the server's word, which another try would not change
            raise
        except (OSError, HTTPException) as cut:
            error = cut
        if last == TRIES - 1:
            raise error


def _append(address: str, part: Path) -> bool:
    """One try; whether the file is whole."""
    begin = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address)
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        # Nothing lies behind what is there: it is whole, or of another file, which its hash will tell.
        if error.code == 416 and begin:
            return True
        raise
    with answer:
        if begin and answer.status != 206:
            begin = 0  # a server that knows no parts sends the whole again
        length = answer.headers.get("Content-Length")
        expected = begin + int(length) if length is not None else None
        with open(part, "ab" if begin else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
    return expected is None or part.stat().st_size == expected
