"""A csv list that is written of a benchmark as its makers hand it out: an archive, or the folder that it unpacks to."""

import csv
import io
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from core.console import log
from core.errors import InputError, first_line, near_match
from core.files import make_folder, replacing
from core.text import counted, plural
from data.convert import CONVERTERS, Archive, Counts, DataSet, Row
from data.formats.csv import CSV_BOX
from data.formats.tars import is_compressed, refuse_cut
from data.make_list import encoded_list, list_root
from data.names import NAMES_COLUMNS

ENDS = (".zip", ".tar", ".tar.gz", ".tgz")
ZIP_START = b"PK"
# Beside what an archive holds, Macs write a folder of their own.
OF_MACS = "__MACOSX"


class Converted(NamedTuple):
    """The list, of which set, what is in it, how many rows were dropped, and the folder that its paths start from.

    names: the file that says what its labels are called, where the set does.
    """

    file: Path
    facts: DataSet
    counts: Counts
    dropped: int
    root: Path
    names: Path | None


def write_benchmark_list(
    name: str,
    source: str | Path,
    output: str | Path,
    protocol: str | None = None,
    boxes: bool = False,
    download: bool = False,
    partial: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write the list of a benchmark, checked against its published counts.

    name: one of CONVERTERS. source: an archive, which is unpacked beside itself; or the folder in which the archives
    are, or what they hold. protocol: one of its protocols, None for the usual one. boxes: images are cut to their
    boxes. download: archives that are not there are fetched, where they have an address. partial: counts and checksums
    are not those of the published set, and are not looked at. Raises InputError in one sentence for whatever is not as
    it should be; then no list is written, and nothing is unpacked in part.
    """
    converter = CONVERTERS[name]
    facts = CONVERTERS.fact(name, "facts")
    output = Path(output)
    if output.suffix.lower() != ".csv":
        raise InputError(f"cannot write {str(output)!r}: a list of this kind has to end in .csv")
    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} is there already; give --overwrite to replace it")
    protocol = protocol or next(iter(facts.protocols))
    if protocol not in facts.protocols:
        allowed = ", ".join(facts.protocols)
        hint = near_match(protocol, facts.protocols)
        raise InputError(f"{name} has no protocol {protocol!r}; there are: {allowed}.{hint}")
    if boxes and not facts.has_boxes:
        raise InputError(f"{facts.title} has no boxes")

    folder = unpack_source(Path(source), facts, download, partial)
    rows = converter(folder, protocol, boxes)
    _refuse_missing(folder, rows)
    if not partial:
        _refuse_other_counts(Counts.of(rows), facts, protocol)
    kept = rows
    if protocol in CONVERTERS.fact(name, "drops", {}):
        kept = CONVERTERS.fact(name, "drops")[protocol](rows)
    root = list_root(folder, output)
    files = {output: _csv_text(kept, os.path.relpath(folder, root))}
    names = {row.label: row.label_name for row in kept if row.label_name is not None}
    names_file = output.with_name(f"{output.stem}.names.csv") if names else None
    if names_file is not None:
        if names_file.exists() and not overwrite:
            raise InputError(f"{str(names_file)!r} is there already; give --overwrite to replace it")
        files[names_file] = _names_text(names)
    encoded = {file: encoded_list(text) for file, text in files.items()}
    make_folder(output.parent)
    for file, content in encoded.items():
        with replacing(file) as opened:
            opened.write(content)
    return Converted(output, facts, Counts.of(kept), len(rows) - len(kept), root, names_file)


def unpack_source(source: Path, facts: DataSet, download: bool, partial: bool) -> Path:
    """The folder that a data set lies in, its archives unpacked.

    Raises InputError for what is not there, is another archive, or cannot be unpacked whole.
    """
    if source.is_file():
        _unpack(source, _archive_called(source, facts), partial)
        return source.parent
    if download:
        make_folder(source)
    elif not source.is_dir():
        raise InputError(f"no file or folder {str(source)!r}; {facts.title} is had at {facts.page}")
    lacking = []
    for archive in facts.archives:
        file = _archive_in(source, archive)
        # What is unpacked already needs no archive; the folder itself may be what it holds.
        is_there = _is_filled(source / archive.holds) or source.name == archive.holds
        if file is None and not is_there:
            if download and archive.addresses:
                file = source / archive.name
                _download(file, archive, facts)
            else:
                lacking.append(archive.name)
        if file is not None:
            _unpack(file, archive, partial)
    # Some data sets come in either of two forms, so that what is left out may not be needed.
    if download and len(lacking) == len(facts.archives):
        raise InputError(
            f"no public address of {', '.join(lacking)}; what is needed of {facts.title} is had at {facts.page}, to be "
            f"put into {str(source)!r}"
        )
    return source


def _archive_in(folder: Path, archive: Archive) -> Path | None:
    """The file that an archive is, in a folder or one below it, whichever of ENDS it has; None where there is none."""
    stem = _stem(archive.name)
    files = [file for file in sorted(folder.glob("*")) if _stem(file.name) == stem]
    # Makers have folders of their own (Img/img.zip). By whole names: folders below may have many thousand images.
    for end in ENDS:
        files += sorted(folder.glob(f"*/{archive.holds}{end}")) + sorted(folder.glob(f"*/{archive.name}"))
    return next((file for file in files if file.is_file()), None)


def _stem(name: str) -> str | None:
    """The name of an archive without its end, in small letters; None for what is called as no archive is."""
    for end in ENDS:
        if name.lower().endswith(end):
            return name.lower().removesuffix(end)
    return None


def _is_filled(path: Path) -> bool:
    """Whether a file is there, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _archive_called(source: Path, facts: DataSet) -> Archive:
    """Which of a data set's archives a file is: the one of its name, else the only one there is."""
    if _stem(source.name) is None:
        raise InputError(f"{str(source)!r} is no archive: it has to end in {', '.join(ENDS)}")
    for archive in facts.archives:
        if _stem(archive.name) == _stem(source.name):
            return archive
    if len(facts.archives) > 1:
        names = ", ".join(archive.name for archive in facts.archives)
        raise InputError(
            f"{source.name!r} is none of the archives of {facts.title}: {names}; give the folder that they are in"
        )
    return facts.archives[0]


def _download(file: Path, archive: Archive, facts: DataSet) -> None:
    """Fetch an archive from the first of its addresses that answers. Raises InputError where none does."""
    # Here and not above: it locks files as not every system does.
    from core.download import fetch

    reasons = []
    for address in archive.addresses:
        try:
            fetch(address, file, archive.sha256, archive.md5)
            return
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{address} ({first_line(error)})")
    raise InputError(
        f"{archive.name} could not be downloaded from {' or '.join(reasons)}; run this again to go on, or put it into "
        f"{str(file.parent)!r} by other means"
    )


def _unpack(file: Path, archive: Archive, partial: bool) -> None:
    """Unpack an archive beside itself: all of it, checked, or nothing; what is there already stays as it is."""
    target = file.with_name(archive.holds)
    if _is_filled(target):
        log(f"{target} is there already, so that {file.name} is not unpacked; remove it to have it unpacked anew")
        return
    if not partial:
        _refuse_other_file(file, archive)
    # Always the same name, so that what a killed process left is gone with the next.
    staging = file.with_name(f".unpacking-{archive.holds}")
    shutil.rmtree(staging, ignore_errors=True)
    log(f"unpacking {file}")
    try:
        _extract(file, staging)
        os.rename(_held(staging, archive, file), target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        # What the system refuses has a number: no place on the disk, no right to write.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot unpack {str(file)!r} beside itself: {error.strerror}") from None
        reason = first_line(error).rstrip(":")
        raise InputError(
            f"cannot unpack {str(file)!r} ({reason}): cut short, or no such archive; fetch it again"
        ) from None
    except RuntimeError as error:  # so zipfile says that it needs a password, or packs as zipfile does not
        raise InputError(
            f"cannot unpack {str(file)!r} ({first_line(error)}); unpack it by hand with the password of its makers"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(file: Path, folder: Path) -> None:
    """All of a zip or tar, whatever it is called. Raises what zipfile and tarfile raise."""
    with open(file, "rb") as stream:
        is_zip = stream.read(len(ZIP_START)) == ZIP_START
    if is_zip:
        with zipfile.ZipFile(file) as opened:
            opened.extractall(folder)
        return
    with tarfile.open(file) as opened:
        opened.extractall(folder, filter="data")
        # A tar that ends between two files looks like a shorter one.
        if not is_compressed(file):
            refuse_cut(file, opened.offset)


def _held(folder: Path, archive: Archive, file: Path) -> Path:
    """Where the archive `file`, unpacked into a folder, has what it should hold: on top, or in a folder of its own.

    Raises InputError where it is nowhere.
    """
    places = [folder, *(path for path in sorted(folder.glob("*")) if path.name != OF_MACS)]
    for place in places:
        if _is_filled(place / archive.holds):
            return place / archive.holds
    names = ", ".join(path.name for path in places[1:4]) or "nothing"
    raise InputError(
        f"{str(file)!r} holds no {archive.holds!r}, but {names}; it is another archive than {archive.name}"
    )


def _refuse_other_file(file: Path, archive: Archive) -> None:
    """Raise InputError where the checksum is not the published one."""
    from core.download import refuse_other_content

    try:
        refuse_other_content(file, archive.sha256, archive.md5)
    except ValueError as error:
        raise InputError(
            f"{str(file)!r} is not the published {archive.name} ({error}): cut short, or another version; --partial "
            "takes it all the same"
        ) from None


def _refuse_missing(folder: Path, rows: list[Row]) -> None:
    """Raise InputError where images are not there, or nothing is."""
    if not rows:
        raise InputError(f"no image is named in what lies in {str(folder)!r}")
    missing = [row.path for row in rows if not (folder / row.path).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {counted(len(rows), 'image')} {plural(len(missing), 'is', 'are')} not in "
            f"{str(folder)!r} ({missing[0]}, for one): the archive was "
            "cut short, or unpacked in part; remove that to have it unpacked anew"
        )


def _refuse_other_counts(counts: Counts, facts: DataSet, protocol: str) -> None:
    """Raise InputError where a count is not the published one, or an image stands twice."""
    published = facts.protocols[protocol]
    for split in ("train", "test"):
        found, expected = getattr(counts, split), getattr(published, split)
        if found != expected:
            raise InputError(
                f"{counted(found[0], 'image', ',')} of {counted(found[1], 'label', ',')} to {split} with; "
                f"{facts.title} has {expected[0]:,} of "
                f"{expected[1]:,}: another version, or a part of it (--partial takes it all the same)"
            )
    for part in ("queries", "gallery"):
        expected = getattr(published, part)
        if expected is not None and getattr(counts, part) != expected:
            raise InputError(
                f"{counted(getattr(counts, part), 'image', ',')} {plural(getattr(counts, part), 'is', 'are')} {part}; "
                f"{facts.title} has {expected:,}: another version, or a part of it (--partial takes it all the same)"
            )


def _names_text(names: dict[str, str]) -> str:
    """The text of a table of names, as data.names reads it, of labels {id: name}."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(NAMES_COLUMNS)
    writer.writerows(("label", key, name) for key, name in names.items())
    return text.getvalue()


def _csv_text(rows: list[Row], prefix: str) -> str:
    """The text of a list; paths behind `prefix`, columns that no row has left out."""
    header = ["label", "path", "split", "is_query", "is_gallery"]
    for name in ("category", "sequence"):
        if any(getattr(row, name) is not None for row in rows):
            header.append(name)
    if any(row.box is not None for row in rows):
        header += CSV_BOX
    text = io.StringIO()
    writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = row._asdict()
        values["path"] = os.path.normpath(os.path.join(prefix, row.path))
        if row.split == "train":
            values |= {"is_query": "", "is_gallery": ""}
        if row.box is not None:
            values |= dict(zip(CSV_BOX, row.box, strict=True))
        writer.writerow(values)
    return text.getvalue()
