"""Tables of embeddings read from files: ours, or a stranger's, in which anything may be wrong."""

from dataclasses import replace

import numpy as np
import torch

from core.arrays import read_npz
from core.errors import InputError, meant_by
from core.text import plural
from data.formats.problems import Problems
from data.records import Records
from data.repeats import find_repeats, fold_repeats
from embeddings.npz import COLUMNS, NpzRows, read_rows, rows_of
from embeddings.table import EmbeddingTable

OLD_UNKNOWN = -1  # a label that nobody knows, in an .npz of ours without a format


def load_table(path: str, needs_roles: bool = True) -> EmbeddingTable:
    """The table in an .npz with embeddings and labels, ours or another's.

    What it does not hold is filled in: every row a query and in the gallery, numbers for paths. Raises InputError for
    missing columns, mistyped ones, lengths that differ, and unknown labels; needs_roles: and where nobody asks or
    nothing can be found, as in a csv's rows to train with.
    """
    arrays = read_npz(path, ("embeddings",), mapped="embeddings")
    if "labels" not in arrays:
        hint = meant_by("labels", [name for name in arrays if name not in COLUMNS])
        raise InputError(f"{str(path)!r} has no labels, so there is nothing to count as right or wrong.{hint}")
    table = _table_of(rows_of(path, arrays))

    # Our own files of today leave unknown labels out; others may have used the number of our old ones.
    records = table.records
    unknown = 0
    if "format" not in arrays and records.labels.dtype.kind in "iu":
        unknown = int((records.labels == OLD_UNKNOWN).sum())
    if unknown == len(records):
        raise InputError(f"{str(path)!r}: the labels are all {OLD_UNKNOWN}, that is, unknown; evaluation needs others")
    if unknown:
        rows_have = plural(unknown, "row has", "rows have")
        note = f"{path}: {unknown} {rows_have} the label {OLD_UNKNOWN}, which counts as a label like any other"
        records = records.with_notes([note])

    for flag in ("is_query", "is_gallery"):
        if needs_roles and not getattr(records, flag).any():
            raise InputError(f"{str(path)!r}: {flag} is False everywhere: there is nobody to ask, or nothing to find")
    records, embeddings = _each_once(records, table.matrix.numpy())
    return replace(table, records=records, matrix=torch.from_numpy(embeddings))


def read_table(path: str) -> EmbeddingTable:
    """The rows of an .npz as they stand there, with labels or without. Raises InputError as `load_table` for what
    cannot be read."""
    return _table_of(read_rows(path))


def _table_of(rows: NpzRows) -> EmbeddingTable:
    return EmbeddingTable(rows.records, torch.from_numpy(rows.embeddings), rows.fingerprint)


def _each_once(records: Records, embeddings: np.ndarray) -> tuple[Records, np.ndarray]:
    """Records and their embeddings without rows that are another one's in path, box and every number.

    Such a row, as of an image that is once a query and once in the gallery, would be found as a right answer.
    """
    first = find_repeats(records)
    repeats = np.flatnonzero(first != np.arange(len(records)))
    # The same image with other numbers, as of another model, is a row of its own.
    differ = (embeddings[repeats] != embeddings[first[repeats]]).any(1)
    first[repeats[differ]] = repeats[differ]
    problems = Problems()
    folded = fold_repeats(records, problems, first)
    if problems:
        raise InputError("\n".join(problems.lines(records.source)))
    kept = np.unique(first)
    # All of them stay where they are, which may be on the disk.
    return folded, embeddings if len(kept) == len(embeddings) else embeddings[kept]
