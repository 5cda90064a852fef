"""Weights from an address into the cache, going on where an earlier try was cut off, and checked."""

import contextlib
import fcntl
import hashlib
import re
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse

import torch

from core.console import log
from core.errors import InputError, first_line

TRIES = 3
TIMEOUT = 30  # seconds of silence
BLOCK = 2**20
# torchvision, timm and others put the beginning of a file's SHA-256 into its name.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
BY_OTHER_MEANS = (
    "fetch the file by other means and give it as --pretrained_model=FILE, or leave --pretrained_model empty to start "
    "from random weights"
)


def download(address: str, sha256: str | None = None, md5: str | None = None) -> Path:
    """The file of an http(s) address, in torch's cache ($TORCH_HOME/hub/checkpoints).

    sha256, md5: hexadecimal, or the beginning of it; where there is none, that of the SHA-256 in the file's name, if it
    has one. What was cut off before goes on where it ended. Raises InputError in one sentence where there is no network
    or the file is another one.
    """
    name = Path(urlparse(address).path).name
    if sha256 is None and (match := HASH_IN_NAME.search(name)):
        sha256 = match[1]
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / name
    if file.is_file():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{name}.lock"):
            # Another process may have been quicker.
            if not file.is_file():
                part = folder / f"{name}.part"
                _fetch(address, part)
                _refuse_other_content(part, sha256, md5)
                part.replace(file)
    except (OSError, HTTPException, ValueError) as error:  # no network, a cut answer, another file
        raise InputError(
            f"the weights could not be downloaded from {address} ({first_line(error)}); {BY_OTHER_MEANS}"
        ) from None
    return file


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of several processes one at a time."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    path.unlink(missing_ok=True)


def _fetch(address: str, part: Path) -> None:
    """All of an address into `part`, behind what it has already. Raises OSError or HTTPException."""
    log(f"downloading {address}")
    for last in range(TRIES):
        try:
            if _append(address, part):
                return
            error = OSError(f"cut off after {part.stat().st_size} bytes, which are kept for another try")
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


def _refuse_other_content(part: Path, sha256: str | None, md5: str | None) -> None:
    """Raise ValueError, and remove the file, where its hash does not begin as it should."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, kind).hexdigest()
        if not digest.startswith(expected):
            part.unlink()
            raise ValueError(f"its {kind.upper()} is {digest}, not {expected}")
