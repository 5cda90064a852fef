"""A list of any length to embeddings on the disk, written as they are made."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import distributed
from core.arrays import RowFile
from core.console import log
from core.errors import InputError
from core.files import check_output, open_output
from core.packages import needed
from core.text import counted
from core.types import Paths, Switch
from core.versions import package_versions
from data.records import Records
from embeddings.embed import embed_batches
from embeddings.encoder import Encoder
from embeddings.rows import KeyedRows, OrderedRows, image_keys, resumable_rows, temporary_rows
from embeddings.table import SUFFIXES, EmbeddingTable


class NothingReadable(InputError):
    """Not one row of a list could be read."""


class KeptFiles(NamedTuple):
    """Files that embeddings are written to, and whether they are gone on with that an earlier process made for them."""

    paths: list[Path]
    goes_on: bool

    @property
    def rows_file(self) -> str | None:
        """Where rows stand until all are there: beside the first file, so that they are found again."""
        if not self.paths:
            return None
        return f"{self.paths[0]}.rows"


def open_kept_files(*, output: Paths | None = None, continue_: Switch = False) -> KeptFiles:
    """The files to write embeddings to; their folders are made.

    Options:
        output: files to write: embeddings with their list and model as .npz, alone as .npy, {path: embedding} as .json,
            a row an image of path, label and embedding as .parquet
        continue: go on with the --output of a run that was stopped

    Raises InputError for what cannot be written.
    """
    return KeptFiles([open_output(path, SUFFIXES) for path in output or ()], continue_)


def stopped_rows(output: Paths | None, continue_: bool) -> str | None:
    """Where a stopped run has its rows that is gone on with; None where none is."""
    if not continue_ or not output:
        return None
    return KeptFiles(output, continue_).rows_file


def check_kept_files(output: Paths | None, continue_: bool) -> None:
    """Raise InputError, before any work, for files that cannot be written, or whose package is missing, and where there
    is nothing to go on with."""
    if continue_ and not output:
        raise InputError("--continue goes with --output of embeddings, beside which a stopped run keeps what it has")
    for path in output or ():
        check_output(path, SUFFIXES)
        if path.endswith(".parquet"):
            needed("pyarrow.parquet", f"--output={path}", "shards")


@contextlib.contextmanager
def embed_stream(
    records: Records,
    encoder: Encoder,
    file: str | Path | None = None,
    folder: str | Path | None = None,
    go_on: bool = False,
    skips_unreadable: bool = False,
    drops_others: bool = False,
) -> Iterator[EmbeddingTable | None]:
    """The table of a list, its matrix on the disk until the context ends. Other ranks than the first get None.

    file: where the matrix stands meanwhile, and stays if the process is stopped, for a run with `go_on` to go on;
    None: in a file without a name in `folder` (None: that of temporary files), which is gone with the process.
    skips_unreadable: leave images out that cannot be read, and say so. drops_others: rows in `file` that another model
    made are forgotten. Raises InputError for what cannot be read otherwise (NothingReadable where that is everything),
    for embeddings that are not finite, and where the disk refuses.
    """
    width = encoder.network.embedding_size
    if not distributed.is_first():
        embed_rows(None, records, encoder, skips_unreadable)
        yield None
        return
    if file is None:
        opened = temporary_rows(folder, width)
    else:
        opened = resumable_rows(file, {**encoder.facts, **package_versions()}, width, go_on, drops_others)
    with opened as rows:
        order = embed_rows(rows, records, encoder, skips_unreadable)
        yield _table_of_readable(records, rows, order, encoder.fingerprint)


def embed_rows(
    rows: RowFile | KeyedRows | None, records: Records, encoder: Encoder, skips_unreadable: bool
) -> np.ndarray:
    """Append to a RowFile or KeyedRows the embeddings of those records that it lacks, batch by batch.

    Returns for each record its row, (N,) int64, -1 where it could not be read. Where a stopped process has done the
    first images of the same list, batches begin where they would have begun, so that the rows are the same as if
    nothing had stopped. Several ranks share the work; only the first has `rows`, for the others it is None. Raises
    InputError for an embedding that is not finite.
    """
    keys = None
    order = torch.full((len(records),), -1)
    if isinstance(rows, KeyedRows):
        keys = image_keys(records)
        order = torch.from_numpy(_of_whole_batches(rows, rows.find(keys), encoder.batch_size))
    distributed.broadcast_tensors([order])
    order = order.numpy()
    done = int((order >= 0).sum())
    if done:
        log(f"{done} of {counted(len(records), records.noun)} are embedded already")
    left = np.flatnonzero(order < 0)
    if not len(left):
        return order

    rest = records
    if len(left) < len(records):
        rest = records.take(left)
    loader = encoder.open_loader(rest, _log_skipped if skips_unreadable else None)
    for indices, batch in embed_batches(encoder.network, loader, encoder.device):
        chosen = left[indices.numpy()]
        _refuse_not_finite(batch, records.paths[chosen])
        order[chosen] = np.arange(len(rows), len(rows) + len(batch))
        if keys is None:
            rows.append(batch.numpy())
        else:
            rows.append(batch.numpy(), keys[chosen])
    return order


def _of_whole_batches(rows: KeyedRows, order: np.ndarray, batch_size: int) -> np.ndarray:
    """The rows (N,) that images have; where these are the first images, a batch that is not whole is dropped."""
    done = int((order >= 0).sum())
    are_first = np.array_equal(order[:done], np.arange(done))
    if are_first and done == len(rows) and done < len(order):
        whole = done - done % batch_size
        rows.cut(whole)
        order[whole:] = -1
    return order


def _table_of_readable(
    records: Records, rows: RowFile | KeyedRows, order: np.ndarray, fingerprint: dict
) -> EmbeddingTable:
    """The table of those records that could be read. order (N,): the row of each, -1 for none."""
    is_read = order >= 0
    if not is_read.any():
        raise NothingReadable(f"not one of {counted(len(records), records.noun)} could be read")
    if not is_read.all():
        missing = len(records) - int(is_read.sum())
        verb = "is" if missing == 1 else "are"
        log(f"{missing} of {counted(len(records), records.noun)} could not be read and {verb} left out")
        records = records.take(is_read)
        order = order[is_read]
    if isinstance(rows, KeyedRows):
        rows = rows.rows
    is_in_order = len(order) == len(rows) and np.array_equal(order, np.arange(len(rows)))
    if not is_in_order:
        rows = OrderedRows(rows, order)
    return EmbeddingTable(records, rows, fingerprint)


def _log_skipped(_: int, sentence: str) -> None:
    # Each rank says it, since each reads images of its own.
    log(f"{sentence}; skipped", by_first=False)


def _refuse_not_finite(batch: torch.Tensor, paths: np.ndarray) -> None:
    broken = torch.nonzero(~torch.isfinite(batch).all(1)).flatten().tolist()
    if broken:
        raise InputError(
            f"the embedding of {str(paths[broken[0]])!r} is NaN or infinite: look at the weights, or take "
            "--precision=fp32"
        )
