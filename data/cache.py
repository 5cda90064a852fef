"""Files, or the images in them, kept in memory that all loader processes share."""

import mmap
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image.files import byte_count, read_bytes, read_image
from data.image.header import image_size


def decoded_size(path: str | Path) -> int:
    """Bytes of the file's image, (H, W, 3) uint8; 0 if it is not one. Raises InputError when it cannot be read."""
    size = image_size(read_bytes(path))
    if size is None:
        return 0
    height, width = size
    return 3 * height * width


class CacheKind(NamedTuple):
    """What is kept of a file: how it is read, how many bytes it takes, and its shape behind the first axis."""

    read: Callable[[str | Path], np.ndarray]
    size: Callable[[str | Path], int]
    inner_shape: tuple[int, ...]


CACHE_KINDS = {
    "encoded": CacheKind(read_bytes, byte_count, ()),
    "decoded": CacheKind(read_image, decoded_size, (-1, 3)),
}


class Extent(NamedTuple):
    """Where in the memory a file's array is: its number, its first byte, the byte behind its last."""

    number: int
    start: int
    stop: int


class Cache:
    """Reads files; keeps what fits into `limit` bytes, whoever reads it first, for this process and its forks.

    kind: `encoded`, the files as they are, (N,) uint8; `decoded`, their images, (H, W, 3) uint8 RGB. The memory is
    dealt out at the start, to `paths` in their order, and never changes hands: a training run comes by every file
    equally often. A process that is spawned instead of forked, as on Windows and macOS, keeps nothing.
    """

    def __init__(self, kind: str = "encoded", paths: Iterable[str | Path] = (), limit: int = 0):
        self.kind = kind
        self.extents, array_bytes = _deal_out(CACHE_KINDS[kind].size, paths, limit)
        # One anonymous map, which forks share: how long each array's first axis is, 0 until it is there; the arrays.
        length_bytes = 4 * len(self.extents)
        if array_bytes:
            memory = np.frombuffer(mmap.mmap(-1, length_bytes + array_bytes), np.uint8)
        else:
            memory = np.empty(0, np.uint8)
        self.lengths = memory[:length_bytes].view(np.int32)
        self.bytes = memory[length_bytes:]
        self.lock = multiprocessing.Lock()

    @property
    def nbytes(self) -> int:
        """Memory that it takes when it is full."""
        return self.bytes.nbytes + self.lengths.nbytes

    def __reduce__(self) -> tuple:
        return Cache, (self.kind,)

    def read(self, path: str | Path) -> np.ndarray:
        """What is in the file, not to be written to. Raises InputError when it cannot be read."""
        kind = CACHE_KINDS[self.kind]
        if path not in self.extents:
            return kind.read(path)
        number, start, stop = self.extents[path]
        # Not for exclusion, since two may well write the same bytes: so that what is kept is there to see.
        with self.lock:
            length = self.lengths[number]
        if length:
            return self.bytes[start:stop].reshape(length, *kind.inner_shape)
        array = kind.read(path)
        if array.size == stop - start:  # else it has changed since
            self.bytes[start:stop] = array.reshape(-1)
            with self.lock:
                self.lengths[number] = len(array)
        return array


def _deal_out(
    size_of: Callable[[str | Path], int], paths: Iterable[str | Path], limit: int
) -> tuple[dict[str | Path, Extent], int]:
    """The extents of those files that fit into `limit` bytes with their lengths, {path: Extent}, and bytes in all."""
    extents = {}
    stop = 0
    if not limit:
        return extents, stop
    for path in dict.fromkeys(paths):
        size = size_of(path)
        if size and stop + size + 4 * (len(extents) + 1) <= limit:
            extents[path] = Extent(len(extents), stop, stop + size)
            stop += size
    return extents, stop
