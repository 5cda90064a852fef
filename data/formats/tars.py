"""Tar files of images, as WebDataset writes them: their samples, and an index by which images are read in place."""

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from core.arrays import read_npz, write_npz
from core.console import log
from core.errors import InputError, first_line
from core.text import counted
from data.formats.folders import IMAGE_SUFFIXES

LARGEST = 2**30  # bytes of one image, or of what tells its label
TELLS = (".cls", ".json")  # members that tell a sample's label
BLOCK = 512  # bytes of a tar's unit, one or more of which end it, all zero
INDEX_END = ".index.npz"
INDEX_VERSION = 1
SHOWN_INDEXING = 2**30  # bytes of a tar from which on it is said that it is gone through


class Sample(NamedTuple):
    """Files of a tar that belong together, called alike up to the first dot: KEY.jpg, KEY.cls, KEY.json, KEY.txt.

    images: (name, what was taken of it) of each. values: {name: text} of what the other members say.
    """

    images: list[tuple[str, object]]
    values: dict[str, str]


class TarIndex(NamedTuple):
    """The N images of a tar: names, where they are in it, and columns {name: texts} of what stands beside them, "" of
    images without."""

    names: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    values: dict[str, np.ndarray]


def tar_samples(
    archive: tarfile.TarFile,
    take: Callable[[tarfile.TarInfo], object],
    place: str,
    known: tuple[str, ...] = ("label",),
    reads_texts: bool = False,
) -> Iterator[Sample]:
    """The samples of an open tar, in order; files of one follow one another.

    take: what is wanted of an image's member. known: entries of a KEY.json that count. reads_texts: KEY.txt is `text`.
    Raises InputError for members that are too large, that are links, or cannot be read as what they are called.
    """
    key = None
    sample = Sample([], {})
    for member in archive:
        path = PurePosixPath(member.name)
        if (member.issym() or member.islnk()) and path.suffix.lower() in (*IMAGE_SUFFIXES, *TELLS):
            raise InputError(
                f"{place}: {member.name} is a link to {member.linkname}, and has no bytes of its own; write the tar "
                "anew with what it links to (tar --dereference --hard-dereference)"
            )
        if not member.isfile():
            continue
        key_of_member = str(path.parent / path.name.partition(".")[0])
        if key_of_member != key:
            if sample.images:
                yield sample
            key, sample = key_of_member, Sample([], {})
        if member.size > LARGEST:
            raise InputError(f"{place!r}: {member.name!r} has {counted(member.size, 'byte')}; {LARGEST} are the most")
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            sample.images.append((member.name, take(member)))
        elif suffix in TELLS or (suffix == ".txt" and reads_texts):
            content = archive.extractfile(member).read()
            sample.values.update(_values_of(content, suffix, f"{place}: {member.name}", known))
    if sample.images:
        yield sample


def _values_of(content: bytes, suffix: str, place: str, known: tuple[str, ...]) -> dict[str, str]:
    """What a member says, {name: text}; what is not there, or empty, is left out."""
    try:
        text = content.decode().strip()
        facts = {}
        if suffix == ".cls":
            facts = {"label": text}
        elif suffix == ".txt":
            facts = {"text": text}
        else:
            facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: {first_line(error)}") from None
    if not isinstance(facts, dict):
        return {}
    for name in known:
        # json reads NaN as a number, and a list is none of a csv's values.
        if isinstance(facts.get(name), (list, dict)) or facts.get(name) != facts.get(name):
            raise InputError(f"{place}: {name} is {facts[name]!r}, expected a text or a number")
    values = {name: str(facts[name]) for name in known if facts.get(name) is not None}
    if suffix == ".txt":
        values = facts
    return {name: value for name, value in values.items() if value}


def open_tar_index(file: Path, known: tuple[str, ...]) -> TarIndex:
    """The index of a tar: kept from the last time, if the tar has not changed, else made.

    known: as `tar_samples`. It is kept beside the tar, or, where that cannot be written to, in the user's folder for
    such files. Raises InputError for a tar that is compressed, was cut short or is damaged.
    """
    status = file.stat()
    facts = np.array([INDEX_VERSION, status.st_size, status.st_mtime_ns], np.int64)
    beside = file.with_name(f"{file.name}{INDEX_END}")
    elsewhere = _cache_folder() / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}{INDEX_END}"
    for kept in (beside, elsewhere):
        with contextlib.suppress(InputError):
            arrays = read_npz(kept, ("facts", "names", "starts", "sizes"))
            if np.array_equal(arrays.pop("facts"), facts):
                return TarIndex(arrays.pop("names"), arrays.pop("starts"), arrays.pop("sizes"), arrays)
    if status.st_size > SHOWN_INDEXING:
        log(f"going through {file}, {status.st_size / 1e9:,.1f} GB, once")
    index = _make_index(file, known)
    arrays = {"facts": facts, "names": index.names, "starts": index.starts, "sizes": index.sizes, **index.values}
    for kept in (beside, elsewhere):
        # Where it can be kept nowhere, it is made again the next time.
        with contextlib.suppress(InputError, OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_npz(kept, arrays)
            break
    return index


def _cache_folder() -> Path:
    """Where files are kept that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "metric_learning")


def _make_index(file: Path, known: tuple[str, ...]) -> TarIndex:
    names, places, values = [], [], []
    try:
        # Not "r:*": within a compressed file nothing stands at a byte.
        with tarfile.open(file, "r:") as archive:
            for sample in tar_samples(archive, _place_of, str(file), known, reads_texts=True):
                for name, place in sample.images:
                    names.append(name)
                    places.append(place)
                    values.append(sample.values)
            refuse_cut(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        if is_compressed(file):
            raise InputError(
                f"{str(file)!r} is compressed, so that nothing in it is read in place; make it a plain .tar (gzip -d)"
            ) from None
        raise InputError(f"{str(file)!r} cannot be read: {first_line(error)}") from None
    starts, sizes = np.array(places, np.int64).reshape(-1, 2).T
    columns = sorted({name for told in values for name in told})
    return TarIndex(
        np.array(names, np.str_),
        np.ascontiguousarray(starts),
        np.ascontiguousarray(sizes),
        {name: np.array([told.get(name, "") for told in values], np.str_) for name in columns},
    )


def _place_of(member: tarfile.TarInfo) -> tuple[int, int]:
    """(first byte, number of bytes) of a member. Raises InputError for one whose bytes do not follow each other."""
    if member.issparse():
        raise InputError(f"{member.name!r} is a sparse file, which cannot be read in place; write the tar anew")
    return member.offset_data, member.size


def refuse_cut(file: Path, end: int) -> None:
    """Raise a tarfile.ReadError where no empty block is behind the last member, at byte `end`."""
    with open(file, "rb") as stream:
        stream.seek(end)
        block = stream.read(BLOCK)
    if len(block) < BLOCK or any(block):
        raise tarfile.ReadError("it has no end: cut short, or still being written")


def is_compressed(file: Path) -> bool:
    """Whether a tar is packed, whatever its name says: then nothing in it can be read in place."""
    with open(file, "rb") as stream:
        start = stream.read(6)
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
