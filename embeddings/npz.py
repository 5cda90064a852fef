"""The rows of an .npz of embeddings as they stand there: ours, or a stranger's, in which anything may be wrong."""

import json
from typing import NamedTuple

import numpy as np

from core.arrays import read_npz
from core.errors import InputError
from core.text import counted
from data.formats.columns import tell_unknown
from data.names import NO_NAMES, Names
from data.records import Records

TEXT, INTEGERS, FLAGS, NUMBERS = "U", "iu", "b", "f"  # numpy's kinds
# The columns of a list in an .npz, with the kinds that each may have.
COLUMNS = {
    "paths": TEXT,
    "labels": TEXT + INTEGERS,
    "is_query": FLAGS,
    "is_gallery": FLAGS,
    "categories": TEXT + INTEGERS,
    "sequences": TEXT + INTEGERS,
    "boxes": NUMBERS,
}
OF_OURS = ("model", "names", "format")  # what stands in our .npz beside the columns


class NpzRows(NamedTuple):
    """A list, the embeddings (N, D) of its rows, and the fingerprint of their model, None where the file tells none."""

    records: Records
    embeddings: np.ndarray
    fingerprint: dict | None


def read_rows(path: str) -> NpzRows:
    """The rows of an .npz, with labels or without. Raises InputError as `rows_of`, and for what is no .npz."""
    return rows_of(path, read_npz(path, ("embeddings",)))


def rows_of(path: str, arrays: dict[str, np.ndarray]) -> NpzRows:
    """The rows of the arrays of an .npz, with what they do not hold filled in.

    Every row is a query and in the gallery then, and a number is its path. Raises InputError for mistyped columns and
    lengths that differ.
    """
    notes = _unused(path, arrays)
    embeddings = arrays["embeddings"]
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(
            f"{str(path)!r}: the embeddings are {shape}; what is looked for is floating-point (N, D), not empty"
        )
    columns = {"labels": None, **_columns(path, arrays)}
    records = Records(str(path), **columns, notes=tuple(notes), names=_read_names(arrays, path))
    return NpzRows(records, embeddings, _read_fingerprint(arrays, path))


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
            raise InputError(f"{str(path)!r}: {shape} {name} for {counted(count, 'embedding')}")
    for name, column in columns.items():
        if column.dtype.kind not in COLUMNS[name]:
            raise InputError(f"{str(path)!r}: the {name} are {column.dtype}; their kind has to be {COLUMNS[name]!r}")
    return columns


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
