"""Encoded image files kept in memory that all loader processes share."""

import mmap
import multiprocessing
import os

import numpy as np

from reader import read_bytes


class ByteCache:
    """Reads files; keeps what fits into `limit` bytes, whoever reads it first, for this process and its forks.

    The places are given out at the start, to `paths` in their order, and never change hands: a training run comes by
    every file equally often. A process that is spawned instead of forked, as on Windows and macOS, keeps nothing.
    """

    def __init__(self, paths=(), limit=0):
        self.places, end = {}, 0  # path -> its number, where its bytes begin and end
        for path in dict.fromkeys(paths) if limit else ():
            size = os.path.getsize(path)
            if size and end + size + len(self.places) + 1 <= limit:
                self.places[path] = len(self.places), end, end + size
                end += size
        # One anonymous map, which forks share: the files' bytes, then one byte a file that says whether they are there.
        memory = np.frombuffer(mmap.mmap(-1, end + len(self.places)), np.uint8) if end else np.empty(0, np.uint8)
        self.bytes, self.is_kept = memory[:end], memory[end:]
        self.lock = multiprocessing.Lock()

    @property
    def nbytes(self):
        """Memory that it takes when it is full."""
        return self.bytes.nbytes + self.is_kept.nbytes

    def __reduce__(self):
        return ByteCache, ()

    def read(self, path):
        """The file's bytes, (N,) uint8, not to be written to. Raises InputError when it cannot be read."""
        if path not in self.places:
            return read_bytes(path)
        number, start, end = self.places[path]
        with self.lock:  # not for exclusion, two may well write the same bytes: so that what is kept is there to see
            is_kept = self.is_kept[number]
        if is_kept:
            return self.bytes[start:end]
        encoded = read_bytes(path)
        if encoded.size == end - start:  # else it has changed since
            self.bytes[start:end] = encoded
            with self.lock:
                self.is_kept[number] = 1
        return encoded
