"""Shards: many images in one file, a tar as WebDataset writes it or a parquet file, unpacked one at a time."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.errors import InputError, first_line
from core.items import member_item
from core.packages import needed
from core.types import Paths
from core.text import counted
from data.formats.tars import is_compressed, tar_samples
from data.members import IMAGE_COLUMNS, LABEL_COLUMNS, NAME_COLUMNS, first_column
from data.records import Records
from data.vocabulary import as_labels

TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TARS, ".parquet")
ROWS = 256  # of a parquet file held in memory at a time
# Of a tar the first byte of an image and their number, of a parquet file its row and None.
Place = tuple[int, int | None]


def find_shards(*, shards: Paths | None = None) -> list[Path]:
    """The shards that are named, and those in folders that are, by name.

    Options:
        shards: tar files (as of WebDataset) or parquet files of images, or folders of them, to embed each into a file
            of its own in the folder --output; of n processes (torchrun, or RANK and WORLD_SIZE of a job array) the r-th
            takes every n-th

    Raises InputError for what is not there, is no shard, or is called as another one.
    """
    found = []
    for path in map(Path, shards or ()):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
            if not inside:
                raise InputError(f"no {' or '.join(SUFFIXES)} in folder {str(path)!r}")
            found += inside
        elif not path.is_file():
            raise InputError(f"no file or folder {str(path)!r}")
        elif not path.name.endswith(SUFFIXES):
            raise InputError(f"{str(path)!r} is no shard: it has to end in {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    [(name, times)] = Counter(path.name for path in found).most_common(1) or [("", 0)]
    if times > 1:
        raise InputError(
            f"{counted(times, 'shard')} are called {name!r}, and would be embedded into one file; rename them"
        )
    return found


def unpack(shard: Path, folder: Path) -> tuple[Records | None, list[str]]:
    """Write the images of a shard into a folder; (their Records, what each is called), None without any.

    It is called SHARD/NAME, and where it can be read in place by where it lies there, too (core/items.py: Member).

    Labels are those of the shard, if every image has one. Raises InputError for a shard that is damaged or has one name
    twice.
    """
    images = _of_parquet if shard.suffix == ".parquet" else _of_tar
    paths, names, items, labels = [], [], [], []
    for number, (name, content, label, place) in enumerate(images(shard)):
        # By its number: a name may lead anywhere.
        path = folder / f"{number:08d}{PurePosixPath(name).suffix.lower()}"
        path.write_bytes(content)
        paths.append(str(path))
        names.append(f"{shard.name}/{name}")
        items.append(names[-1] if place is None else member_item(shard.name, name, *place))
        labels.append(label)
    [(name, times)] = Counter(names).most_common(1) or [("", 0)]
    if times > 1:
        raise InputError(f"{str(shard)!r} has {counted(times, 'image')} called {name!r}")
    if not paths:
        return None, items
    columns = {"paths": paths}
    if None not in labels:
        columns["labels"] = as_labels(labels)
    return Records.of_columns(shard, columns), items


def _of_tar(shard: Path) -> Iterator[tuple[str, bytes, str | None, Place | None]]:
    """(name, content, label as text or None, where it lies or None) of each image of a tar, compressed or not."""
    try:
        in_place = shard.suffix == TARS[0] and not is_compressed(shard)
        with tarfile.open(shard, "r|*") as archive:

            def taken(member: tarfile.TarInfo) -> tuple[bytes, Place | None]:
                place = (member.offset_data, member.size)
                return archive.extractfile(member).read(), place if in_place and not member.issparse() else None

            for sample in tar_samples(archive, taken, str(shard)):
                for name, (content, place) in sample.images:
                    yield name, content, sample.values.get("label"), place
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{str(shard)!r} cannot be read: {first_line(error)}") from None


def _of_parquet(shard: Path) -> Iterator[tuple[str, bytes, str | None, Place | None]]:
    """As `_of_tar`, of rows: a column of bytes, or of {bytes, path} as Hugging Face's data sets have it."""
    pyarrow = needed("pyarrow", f"the shard {str(shard)!r}", "shards")
    parquet = needed("pyarrow.parquet", f"the shard {str(shard)!r}", "shards")
    try:
        with parquet.ParquetFile(shard) as file:
            columns = file.schema_arrow.names
            image = first_column(columns, IMAGE_COLUMNS)
            if image is None:
                raise InputError(f"{str(shard)!r} has no column of images: one of {', '.join(IMAGE_COLUMNS)}")
            label, name = first_column(columns, LABEL_COLUMNS), first_column(columns, NAME_COLUMNS)
            wanted = [column for column in (image, label, name) if column is not None]
            row = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
                for values in batch.to_pylist():
                    yield *_of_row(values, image, label, name, row, shard), (row, None)
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{str(shard)!r} cannot be read: {first_line(error)}") from None


def _of_row(
    values: dict, image: str, label: str | None, name: str | None, row: int, shard: Path
) -> tuple[str, bytes, str | None]:
    content = values[image]
    called = values[name] if name is not None else None
    if isinstance(content, dict):
        called = called or content.get("path")
        content = content.get("bytes")
    if not isinstance(content, bytes):
        raise InputError(f"{str(shard)!r}: row {row + 1} has no bytes in its column {image!r}")
    text = None
    if label is not None and values[label] is not None:
        text = str(values[label])
    return str(called or row), content, text
