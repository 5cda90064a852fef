"""Images within tar and parquet files, read in place."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.errors import InputError, first_line
from core.items import Member
from core.packages import needed

# Columns of a parquet file, by the first of these names that it has.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")
LABEL_COLUMNS = ("label", "cls", "class", "fine_label")
NAME_COLUMNS = ("path", "__key__", "key", "file_name", "filename", "id")
KEPT_BYTES = 2**28  # of the row groups that a process read last


def read_member(member: Member) -> np.ndarray:
    """The bytes of an image within another file, (N,) uint8. Raises OSError or InputError where that cannot be."""
    if member.size is None:
        return np.frombuffer(ROW_GROUPS.read(member.archive, member.start), np.uint8)
    content = np.fromfile(member.archive, np.uint8, member.size, offset=member.start)
    if len(content) < member.size:
        raise InputError(f"{member.archive!r} ends within {member.name!r}; it is not what it was when it was listed")
    return content


def first_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of some names that is a column."""
    for name in names:
        if name in columns:
            return name
    return None


def image_column(schema: Any) -> str | None:
    """The column of a parquet file that holds images' bytes, by pyarrow's schema: binary, or {bytes, path}."""
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if str(kind) in ("binary", "large_binary") or str(kind).startswith("struct<bytes: "):
                return name
    return None


class RowGroups:
    """The images of the row groups of parquet files that were read last, for this process.

    A parquet file is read by row groups: to have one image, all of its group is read. Threads take turns.
    """

    def __init__(self, limit: int = KEPT_BYTES):
        self.limit = limit
        self.lock = threading.Lock()
        self._process = 0
        self._files: dict[str, tuple[Any, str, np.ndarray]] = {}
        self._kept: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._bytes = 0

    def read(self, file: str, row: int) -> bytes:
        """The image in a row. Raises InputError where there is none."""
        with self.lock:
            # What was opened before a fork is the other process's.
            if self._process != os.getpid():
                self._process = os.getpid()
                self._files.clear()
            opened, column, ends = self._open(file)
            group = int(np.searchsorted(ends, row, side="right"))
            if group == len(ends):
                raise InputError(f"{file!r} has no row {row + 1}; it is not what it was when it was listed")
            images = self._read_group(file, opened, column, group)
            first = 0 if group == 0 else int(ends[group - 1])
            content = images[row - first]
        if not content:
            raise InputError(f"{file!r}: row {row + 1} has no bytes in its column {column!r}")
        return content

    def _open(self, file: str) -> tuple[Any, str, np.ndarray]:
        """(pyarrow's file, its column of images, the row behind each group's last, (G,) int64)."""
        if file not in self._files:
            parquet = needed("pyarrow.parquet", f"{file!r}", "shards")
            if not os.path.isfile(file):
                raise FileNotFoundError(2, os.strerror(2), file)
            try:
                opened = parquet.ParquetFile(file, memory_map=True)
            except Exception as error:  # a stranger's file, in which anything may be wrong
                raise InputError(f"{file!r} cannot be read: {first_line(error)}") from None
            column = image_column(opened.schema_arrow)
            if column is None:
                raise InputError(f"{file!r} has no column of images: one of {', '.join(IMAGE_COLUMNS)}")
            counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            self._files[file] = opened, column, np.cumsum(counts)
        return self._files[file]

    def _read_group(self, file: str, opened: Any, column: str, group: int) -> list[bytes]:
        """The images of a row group, kept while the groups read last have room."""
        key = file, group
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            # Without threads of its own: this may be one of many loading processes.
            values = opened.read_row_group(group, columns=[column], use_threads=False).column(column).to_pylist()
        except Exception as error:
            raise InputError(f"{file!r} cannot be read: {first_line(error)}") from None
        images = [value.get("bytes") if isinstance(value, dict) else value for value in values]
        self._kept[key] = images
        self._bytes += _bytes_of(images)
        while self._bytes > self.limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _bytes_of(oldest)
        return images


def _bytes_of(images: list[bytes | None]) -> int:
    return sum(len(image) for image in images if image)


ROW_GROUPS = RowGroups()
