"""Files, or the pictures in them, kept in memory that all loader processes share."""

import mmap
import multiprocessing
import os

import numpy as np

from data.image.files import read_bytes, read_image
from data.image.header import image_size


def decoded_size(path):
    """Bytes of the file's picture, (H, W, 3) uint8; 0 of what is no image. Raises InputError when it cannot be read."""
    height, width = image_size(read_bytes(path)) or (0, 0)
    return 3 * height * width


CACHE_KINDS = {"encoded": (read_bytes, os.path.getsize, ()), "decoded": (read_image, decoded_size, (-1, 3))}


class Cache:
    """Reads files; keeps what fits into `limit` bytes, whoever reads it first, for this process and its forks.

    kind: `encoded`, the files as they are, (N,) uint8; `decoded`, their pictures, (H, W, 3) uint8 RGB. The places are
    given out at the start, to `paths` in their order, and never change hands: a training run comes by every file
    equally often. A process that is spawned instead of forked, as on Windows and macOS, keeps nothing.
    """

    def __init__(self, kind="encoded", paths=(), limit=0):
        self.kind = kind
        self.load, size_of, self.inner_shape = CACHE_KINDS[kind]
        self.places, end = {}, 0  # path -> its number, where its bytes begin and end
        for path in dict.fromkeys(paths) if limit else ():
            size = size_of(path)
            if size and end + size + 4 * (len(self.places) + 1) <= limit:
                self.places[path] = len(self.places), end, end + size
                end += size
        # One anonymous map, which forks share: how long each array's first axis is, 0 until it is there; the arrays.
        counts = 4 * len(self.places)
        memory = np.frombuffer(mmap.mmap(-1, counts + end), np.uint8) if end else np.empty(0, np.uint8)
        self.lengths, self.bytes = memory[:counts].view(np.int32), memory[counts:]
        self.lock = multiprocessing.Lock()

    @property
    def nbytes(self):
        """Memory that it takes when it is full."""
        return self.bytes.nbytes + self.lengths.nbytes

    def __reduce__(self):
        return Cache, (self.kind,)

    def read(self, path):
        """What is in the file, not to be written to. Raises InputError when it cannot be read."""
        if path not in self.places:
            return self.load(path)
        number, start, end = self.places[path]
        with self.lock:  # not for exclusion, two may well write the same bytes: so that what is kept is there to see
            length = self.lengths[number]
        if length:
            return self.bytes[start:end].reshape(length, *self.inner_shape)
        loaded = self.load(path)
        if loaded.size == end - start:  # else it has changed since
            self.bytes[start:end] = loaded.reshape(-1)
            with self.lock:
                self.lengths[number] = len(loaded)
        return loaded
