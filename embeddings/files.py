"""Tables of embeddings read from files: ours, or a stranger's, in which anything may be wrong."""

import json
from dataclasses import replace

import numpy as np
import torch

from core.errors import InputError, meant_by
from core.arrays import read_npz
from data.formats.columns import tell_unknown
from data.formats.problems import Problems
from data.names import NO_NAMES, Names
from data.records import Records
from data.repeats import find_repeats, fold_repeats
from embeddings.table import COLUMNS, EmbeddingTable

OF_OURS = ("model", "names", "format")  # what stands in our .npz beside the columns
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
    table = _table_of(path, arrays)

    # Our own files of today leave unknown labels out; others may have used the number of our old ones.
    records = table.records
    unknown = 0
    if "format" not in arrays and records.labels.dtype.kind in "iu":
        unknown = int((records.labels == OLD_UNKNOWN).sum())
    if unknown == len(records):
        raise InputError(f"{str(path)!r}: the labels are all {OLD_UNKNOWN}, that is, unknown; evaluation needs others")
    if unknown:
        note = f"{path}: {unknown} rows have the label {OLD_UNKNOWN}, which counts as a label like any other"
        records = records.with_notes([note])

    for flag in ("is_query", "is_gallery"):
        if needs_roles and not getattr(records, flag).any():
            raise InputError(f"{str(path)!r}: {flag} is False everywhere: there is nobody to ask, or nothing to find")
    records, embeddings = _each_once(records, table.matrix.numpy())
    return replace(table, records=records, matrix=torch.from_numpy(embeddings))


def read_table(path: str) -> EmbeddingTable:
    """The rows of an .npz as they stand there, with labels or without. Raises InputError as `load_table` for what
    cannot be read."""
    return _table_of(path, read_npz(path, ("embeddings",)))


def _table_of(path: str, arrays: dict[str, np.ndarray]) -> EmbeddingTable:
    """The rows of the arrays of an .npz, with what they do not hold filled in."""
    notes = _unused(path, arrays)
    embeddings = arrays["embeddings"]
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(
            f"{str(path)!r}: the embeddings are {shape}; what is looked for is floating-point (N, D), not empty"
        )
    columns = {"labels": None, **_columns(path, arrays)}
    records = Records(str(path), **columns, notes=tuple(notes), names=_read_names(arrays, path))
    return EmbeddingTable(records, torch.from_numpy(embeddings), _read_fingerprint(arrays, path))


def _columns(path: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of the list, checked, with those filled in that are always there."""
    count = len(arrays["embeddings"])
    everyone = np.ones(count, dtype=bool)
    columns = {
        "paths": np.array([f"{row}" for row in range(count)]),
        "is_query": everyone,
        "is_gallery": everyone,
    }
    for name in COLUMNS:
        if name in arrays:
            columns[name] = arrays[name]
    # All lengths first, since a wrong length is the plainer mistake.
    for name, column in columns.items():
        expected = (count, 4) if name == "boxes" else (count,)
        if column.shape != expected:
            shape = len(column) if column.ndim == 1 else column.shape
            raise InputError(f"{str(path)!r}: {shape} {name} for {count} embeddings")
    for name, column in columns.items():
        if column.dtype.kind not in COLUMNS[name]:
            raise InputError(f"{str(path)!r}: the {name} are {column.dtype}; their kind has to be {COLUMNS[name]!r}")
    return columns


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


def _unused(path: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """Sentences on arrays of an .npz that nothing reads. Raises InputError for one that seems a mistyped column."""
    mistyped = []
    unused = tell_unknown(list(arrays), ["embeddings", "labels"], [*COLUMNS, *OF_OURS], mistyped.append)
    if mistyped:
        raise InputError(f"{str(path)!r}: {mistyped[0]}")
    if not unused:
        return []
    return [f"{path}: arrays that are not used: {', '.join(map(repr, unused))}"]


def _read_names(arrays: dict[str, np.ndarray], path: str) -> Names:
    """The names of labels and categories among the arrays of an .npz."""
    if "names" not in arrays:
        return NO_NAMES
    try:
        kinds = json.loads(str(arrays["names"]))
        labels = {str(key): str(name) for key, name in kinds["label"].items()}
        categories = {str(key): str(name) for key, name in kinds["category"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{str(path)!r}: names are not those of labels and categories as JSON") from None
    return Names(labels, categories)


def _read_fingerprint(arrays: dict[str, np.ndarray], path: str) -> dict | None:
    """The model's fingerprint among the arrays of an .npz; None where there is none."""
    if "model" not in arrays:
        return None
    try:
        fingerprint = json.loads(str(arrays["model"]))
    except ValueError:
        fingerprint = "no JSON"
    if not isinstance(fingerprint, dict | None):
        raise InputError(
            f"{str(path)!r}: model is {str(fingerprint)[:40]!r}, expected what tells of a model as JSON, or nothing"
        )
    return fingerprint
