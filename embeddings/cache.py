"""Embeddings kept in a file with what decided them, and taken from there only for the very same."""

import hashlib
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from core.arrays import read_npz, write_npz
from core.console import log
from core.errors import InputError
from core.items import file_of, is_text, member_of, noun_of
from core.text import plural
from core.versions import package_versions
from data.image.files import read_bytes
from data.records import Records


def cache_key(records: Records, made_by: dict, device: torch.device) -> str:
    """What tells the embeddings of a list from all others, hexadecimal: its images' contents, packages and `made_by`.

    made_by: plain JSON on all else that decides them, with the runtime in it. Says how many images are copies of
    others, which their contents show in passing.
    """
    contents = _contents(records)
    _note_copies(records, contents)
    runtime = made_by["runtime"]
    facts = {
        **made_by,
        "device": device.type,
        "images": _list_digest(records, contents),
        **package_versions(),
        runtime: version(runtime),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def take_from_cache(file: Path, key: str) -> torch.Tensor | None:
    """The embeddings (N, D) in a cache file, None where it is not there or holds others."""
    try:
        cached = read_npz(file, ("key", "embeddings"))
    except InputError:  # not there, or not to be read
        return None
    if str(cached["key"]) != key:
        return None
    log(f"embeddings taken from {file} (same weights, transform and images)")
    return torch.from_numpy(cached["embeddings"])


def put_into_cache(file: Path, key: str, embeddings: torch.Tensor) -> None:
    """Write embeddings (N, D) for the next time."""
    write_npz(file, {"key": np.array(key), "embeddings": embeddings.numpy()})


def _contents(records: Records) -> list[bytes]:
    """SHA-256 of the content of each image file of a list, in order."""
    digests = []
    for path in records.paths.tolist():
        if is_text(path):
            digests.append(hashlib.sha256(path.encode(errors="surrogatepass")).digest())
            continue
        if member_of(path) is not None:
            digests.append(hashlib.sha256(read_bytes(path)).digest())
            continue
        try:
            digest = hashlib.sha256(Path(file_of(path)).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read {noun_of([path])} {path!r}: {error.strerror}") from None
        # Of a clip also where it begins.
        digest.update(path[len(file_of(path)) :].encode())
        digests.append(digest.digest())
    return digests


def _list_digest(records: Records, contents: list[bytes]) -> str:
    digest = hashlib.sha256(b"".join(contents))
    if records.boxes is not None:
        digest.update(records.boxes.tobytes())
    return digest.hexdigest()


def _note_copies(records: Records, contents: list[bytes]) -> None:
    """Say how many images are byte for byte another one of their label: each finds the other as a right answer."""
    boxes = [None] * len(records)
    if records.boxes is not None:
        boxes = map(bytes, records.boxes)
    groups = Counter(zip(contents, records.vocabulary.codes.tolist(), boxes))
    copies = sum(number for number in groups.values() if number > 1)
    if copies:
        noun = records.noun
        log(
            f"note: {copies} of {len(records)} {noun}s {plural(copies, 'is', 'are')} byte for byte another {noun} of "
            f"{plural(copies, 'its', 'their')} label, which {plural(copies, 'it', 'they')} "
            "find as a right answer; python reader.py check names them"
        )
