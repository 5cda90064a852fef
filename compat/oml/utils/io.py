"""Hashes of files, and files from addresses (core/download.py)."""

import hashlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from compat.oml import const
from compat.oml._errors import RefusedType, require
from core.console import log
from core.download import fetch
from core.errors import InputError


def calc_hash(source: Path | str | bytes) -> str:
    """The MD5 of a file, or of bytes, hexadecimal."""
    if isinstance(source, bytes):
        return hashlib.md5(source).hexdigest()
    if not isinstance(source, (Path, str)):
        raise RefusedType(f"a hash is of a path or of bytes, not of {type(source).__name__}")
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def calc_folder_hash(folder: Path | str) -> str:
    """The MD5 of a folder: of the names of its files in order, then of the hash of each."""
    require(Path(folder).is_dir(), f"{str(folder)!r} is no folder")
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    digest = hashlib.md5("".join(files).encode())
    for file in files:
        digest.update(calc_hash(Path(folder, file)).encode())
    return digest.hexdigest()


def check_exists_and_validate_md5(path: str | Path, md5: str | None = None) -> bool:
    """Whether a file or a folder is there, and has that hash, if one is given."""
    if not Path(path).exists():
        return False
    found = calc_folder_hash if Path(path).is_dir() else calc_hash
    return not md5 or found(path) == md5


def download_file_from_url(url: str, fname: str | None = None, timeout: float = const.REQUESTS_TIMEOUT) -> bytes | None:
    """What an address has, as a file, or as bytes where no name is given. timeout: seconds, of bytes alone."""
    require(urlsplit(url).scheme in ("http", "https", "file"), f"{url!r} is no address")
    if fname is None:
        with urlopen(url, timeout=timeout) as answer:
            return answer.read()
    Path(fname).parent.mkdir(parents=True, exist_ok=True)
    fetch(url, Path(fname))
    return None


def download_checkpoint(url_or_fid: str, hash_md5: str, fname: str | None = None) -> str:
    """The file of an address, kept in CKPT_SAVE_ROOT. hash_md5: or its beginning; a file of another hash is replaced.

    Raises InputError for a number of Google Drive, which has no address.
    """
    if not urlsplit(url_or_fid).scheme:
        raise InputError(f"{url_or_fid!r} is no address; from Google Drive nothing is downloaded here")
    const.CKPT_SAVE_ROOT.mkdir(parents=True, exist_ok=True)
    file = const.CKPT_SAVE_ROOT / (fname or Path(urlsplit(url_or_fid).path).name)
    if file.is_file() and not calc_hash(file).startswith(hash_md5):
        log(f"{file} is another file than wanted, and is downloaded again")
        file.unlink()
    fetch(url_or_fid, file, md5=hash_md5)
    return str(file)


def download_checkpoint_one_of(url_or_fid_list: Sequence[str] | str, hash_md5: str, fname: str | None = None) -> str:
    """As download_checkpoint, of the first address that gives the file; what the last one raises is raised."""
    addresses = [url_or_fid_list] if isinstance(url_or_fid_list, str) else list(url_or_fid_list)
    require(bool(addresses), "there is no address to download from")
    for address in addresses[:-1]:
        try:
            return download_checkpoint(address, hash_md5, fname)
        except (InputError, OSError, HTTPException, ValueError) as error:
            log(f"{address}: {error}; the next one is tried")
    return download_checkpoint(addresses[-1], hash_md5, fname)


__all__ = [
    "calc_folder_hash",
    "calc_hash",
    "check_exists_and_validate_md5",
    "download_checkpoint",
    "download_checkpoint_one_of",
    "download_file_from_url",
]
