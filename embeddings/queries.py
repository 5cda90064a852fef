"""What asks an index: embeddings that are there already. Nothing here needs torch, whose import takes seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.arrays import read_npy
from core.errors import InputError
from core.types import Paths, Texts
from data.records import Records
from embeddings.npz import read_rows
from retrieval.index.index import Index
from retrieval.index.items import INT64, absolute_paths, split_name


@dataclass(frozen=True)
class Queries:
    """The embeddings (Q, D) of Q records, and their model's fingerprint, None where nobody knows it."""

    records: Records
    embeddings: np.ndarray
    fingerprint: dict | None


def open_queries(
    index: Index, others: object, *, items: Texts | None = None, embeddings: Paths | None = None
) -> Queries | None:
    """What asks without being embedded: items of the index, or embeddings in a file; None where neither is given.

    Options:
        items: items of the index that ask themselves, by their ids or as tables show them: PATH, PATH#L,T,R,B
        embeddings: a file of embeddings that ask: .npz of infer.py, or one array (Q, D) or (D,) as .npy

    others: what has to be embedded. Raises InputError where there is more than one of the three, for what is not in
    the index, and for files that are none of these.
    """
    if sum(map(bool, (items, embeddings, others))) > 1:
        raise InputError("--items, --embeddings, and what has to be embedded (--input, --text): give one of them")
    if items:
        return _of_items(index, items)
    if embeddings:
        if len(embeddings) > 1:
            raise InputError(f"--embeddings of what is to be found is one file; {len(embeddings)} are given")
        return _of_file(Path(embeddings[0]))
    return None


def _of_items(index: Index, words: Sequence[str]) -> Queries:
    """Items that ask with their stored embeddings; the path of several boxes stands for each of them."""
    ids = []
    for word, path in zip(words, absolute_paths(words)):
        found = _ids_of(index, word, path)
        if not found:
            raise InputError(
                f"--items: {word!r} is not in index {str(index.folder)!r}; an item is named by its id, or its path as "
                "tables show it"
            )
        ids += found
    numbers = np.array(ids, np.int64)
    columns = {"paths": index.rows.paths(numbers)}
    boxes = index.rows.boxes(numbers)
    if not np.isnan(boxes).all():
        columns["boxes"] = boxes
    labels = index.rows.labels(numbers).tolist()
    if None not in labels:
        columns["labels"] = labels if all(isinstance(label, int) for label in labels) else [*map(str, labels)]
    records = Records.of_columns(index.folder, columns)
    return Queries(records, index.rows.take(numbers)[0], index.card["fingerprint"])


def _ids_of(index: Index, word: str, path: str) -> list[int]:
    """The ids of the items that a word names, none where it names nothing; path: the word as a path from the root."""
    rows = index.rows
    # Only what may be meant is looked at: to list all paths of an index takes longer than to search it.
    at_path = rows.ids_of_paths({path}).tolist()
    if at_path:
        return at_path
    if word.isascii() and word.isdecimal() and int(word) in INT64 and rows.has(np.array(int(word))):
        return [int(word)]
    path, box = split_name(path)
    if box is None:
        return []
    ids = rows.ids_of_paths({path})
    return ids[(rows.boxes(ids) == box).all(1)].tolist()


def _of_file(file: Path) -> Queries:
    if file.suffix == ".npz":
        rows = read_rows(str(file))
        return Queries(rows.records, np.ascontiguousarray(rows.embeddings, np.float32), rows.fingerprint)
    if file.suffix != ".npy":
        raise InputError(f"{str(file)!r} is no file of embeddings: it has to end in .npz or .npy")
    try:
        embeddings = read_npy(file)
    except FileNotFoundError:
        raise InputError(f"no file {str(file)!r}") from None
    if embeddings.ndim == 1:
        embeddings = embeddings[None]
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(f"{str(file)!r}: the array is {shape}; what is looked for is floating-point (Q, D) or (D,)")
    return Queries(_numbered(file, len(embeddings)), np.ascontiguousarray(embeddings, np.float32), None)


def _numbered(file: Path, count: int) -> Records:
    """Records of rows that have no names of their own."""
    names: Iterable[str] = (str(file),) if count == 1 else (f"{file}[{row}]" for row in range(count))
    return Records.of_columns(file, {"paths": list(names)})
