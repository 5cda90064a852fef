"""Embeddings that are written row by row, as they are made, and found again by the image."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import distributed
from core.console import log
from core.errors import InputError
from core.files import RowFile
from embeddings.embed import embed_batches
from retrieval.index.segments import parts

KEY_BYTES = 16  # of the key of an image; as many as four numbers of an embedding
KEY_NUMBERS = KEY_BYTES // 4


class KeyedRows:
    """A RowFile of embeddings, and beside it one of keys, that tell which image each row is of.

    Rows come in any order; `find` tells where which image stands.
    """

    def __init__(self, rows: RowFile, keys: RowFile):
        self.rows, self.keys, self.width = rows, keys, rows.width
        self.cut(min(len(rows), len(keys)))  # a process may have been killed between the two

    def __len__(self):
        return len(self.rows)

    def append(self, embeddings: np.ndarray, keys: np.ndarray):
        """Write embeddings (n, width) of the images with these keys (n, KEY_BYTES) uint8."""
        self.keys.append(keys.view("<f4"))
        self.rows.append(embeddings)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the images with keys (N, KEY_BYTES) stand: (N,) int64, the first row of each, -1 for none."""
        if not len(self):
            return np.full(len(keys), -1)
        places = {}
        for row, key in enumerate(self.keys.mapped().view(np.uint8)):
            places.setdefault(key.tobytes(), row)
        return np.array([places.get(key.tobytes(), -1) for key in keys], dtype=np.int64)

    def cut(self, rows: int):
        self.rows.cut(rows)
        self.keys.cut(rows)


class Ordered:
    """The embeddings of N images out of a RowFile, read as if that were in their order. order (N,): the row of each."""

    def __init__(self, rows: RowFile, order: np.ndarray):
        self.rows, self.order, self.width = rows, order, rows.width

    def __len__(self):
        return len(self.order)

    def head(self, rows):
        return self.rows.mapped()[self.order[:rows]]

    def blocks(self, memory=2**22):
        for part in parts(len(self), self.width, memory):
            yield self.rows.mapped()[self.order[part]]

    def mapped(self):
        """All of them, in memory."""
        return self.rows.mapped()[self.order]


def image_keys(images) -> np.ndarray:
    """What tells an image and its state from all others, (N, KEY_BYTES) uint8: path, box, size, time of change."""
    keys = np.empty((len(images), KEY_BYTES), np.uint8)
    for row, path in enumerate(images.paths.tolist()):
        try:
            status = os.stat(path)
            state = status.st_size, status.st_mtime_ns
        except OSError:  # gone since it was listed, as reading it will tell
            state = (-1, -1)
        box = images.box_of(row)
        text = os.fsencode(path) + b"\0" + repr((state, None if box is None else box.tolist())).encode()
        keys[row] = np.frombuffer(hashlib.blake2b(text, digest_size=KEY_BYTES).digest(), np.uint8)
    return keys


@contextlib.contextmanager
def rows_on_disk(path, made, width, go_on=False):
    """KeyedRows in the file `path`, behind a line of JSON that tells how they were made, and in `path`.keys.

    Both are removed when all went well. made: plain JSON on all that decides a row beside its image. go_on: keep those
    that a stopped process left. Raises InputError where those are made by something else, or are there unasked.
    """
    made = {"keyed": True, **made}
    path, text = Path(path), json.dumps(made, sort_keys=True).encode()
    line = text + b" " * (-(len(text) + 1) % 64) + b"\n"  # the numbers behind it stand as arrays in memory do
    beside = path.with_name(f"{path.name}.keys")
    try:
        files = [open(name, "r+b" if name.exists() else "w+b", buffering=0) for name in (path, beside)]
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    with files[0] as file, files[1] as keys:
        there = file.readline()
        rows = RowFile(file, width, path, len(there))
        if not len(rows):
            file.seek(0)
            file.truncate()
            file.write(line)
            rows = RowFile(file, width, path, len(line))
        elif not go_on:
            raise InputError(f"{str(path)!r} is what a stopped run has done; go on with --continue, or remove it")
        elif there != line:
            raise InputError(f"{str(path)!r} cannot be continued; what differs: {_differences(there, made)}")
        yield KeyedRows(rows, RowFile(keys, KEY_NUMBERS, beside))
    path.unlink()
    beside.unlink()


@contextlib.contextmanager
def unnamed_rows(folder, width):
    """A RowFile in `folder` (None: that of temporary files) that is gone with its context, or with its process."""
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise InputError(f"cannot write to folder {str(folder)!r}: {error.strerror}") from None
    with file:
        yield RowFile(file, width, folder or tempfile.gettempdir())


def _differences(line, made):
    """Names of the facts in a line of JSON, whatever it holds, that are not those of `made`."""
    try:
        theirs = dict(json.loads(line))
    except (ValueError, TypeError):
        return "it is no file of ours"
    return ", ".join(name for name in {**theirs, **made} if theirs.get(name) != made.get(name))


def embed_rows(rows, images, open_images, model, device, batch_size):
    """Append to a RowFile or KeyedRows the embeddings of those of `images` that it lacks, batch by batch.

    open_images: function from ImageList to loader, in batches of `batch_size`. Returns for each image its row, (N,)
    int64, -1 where it could not be read. Where a stopped process has done the first images of the same list, batches
    begin where they would have begun, so that the rows are the same as if nothing had stopped. Several ranks share the
    work; only the first has `rows`, for the others it is None. Raises InputError for an embedding that is not finite.
    """
    keys, order = None, torch.full((len(images),), -1)
    if isinstance(rows, KeyedRows):
        keys = image_keys(images)
        order = torch.from_numpy(_of_whole_batches(rows, rows.find(keys), batch_size))
    distributed.broadcast_tensors([order])
    order = order.numpy()
    done = int((order >= 0).sum())
    if done:
        log(f"{done} of {len(images)} images are embedded already")
    left = np.flatnonzero(order < 0)
    if not len(left):
        return order
    rest = images if len(left) == len(images) else images.take(left)
    for indices, batch in embed_batches(model, open_images(rest), device):
        chosen = left[indices.numpy()]
        refuse_not_finite(batch, images.paths[chosen])
        order[chosen] = np.arange(len(rows), len(rows) + len(batch))
        rows.append(batch.numpy(), *(() if keys is None else (keys[chosen],)))
    return order


def _of_whole_batches(rows, order, batch_size):
    """The rows (N,) that images have; where these are the first images, a batch that is not whole is dropped."""
    done = int((order >= 0).sum())
    if done == len(rows) < len(order) and np.array_equal(order[:done], np.arange(done)):
        whole = done - done % batch_size
        rows.cut(whole)
        order[whole:] = -1
    return order


def refuse_not_finite(batch, paths):
    broken = torch.nonzero(~torch.isfinite(batch).all(1)).flatten().tolist()
    if broken:
        raise InputError(
            f"the embedding of {str(paths[broken[0]])!r} is NaN or infinite: look at the weights, or take "
            "--precision=fp32"
        )
