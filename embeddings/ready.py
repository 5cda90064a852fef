"""Embeddings that are made already, files of infer.py, as the rows of an index: what many processes embedded comes
together in one table, whose matrix stands on the disk."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.arrays import RowFile
from core.errors import InputError
from core.files import read_json
from core.items import is_text
from core.types import Paths
from core.text import counted
from data.names import Names
from data.records import Records
from data.vocabulary import of_one_kind
from embeddings.files import read_table
from embeddings.index import categories_of
from embeddings.rows import temporary_rows
from embeddings.shards import DONE
from embeddings.table import EmbeddingTable
from retrieval.index.index import differences

SUFFIX = ".npz"
# Flags that say what to embed, or where to write that: nothing is embedded here.
OTHERS = ("index", "input", "text", "output", "continue")


class ReadyTable(NamedTuple):
    """A table of embeddings, and the labels of its rows as an index takes them: None where nobody knows one."""

    table: EmbeddingTable
    labels: np.ndarray | list | None


def find_ready(*, embeddings: Paths | None = None) -> list[Path]:
    """The files of embeddings that are named, and those in folders that are, by name.

    Options:
        embeddings: embed nothing, but take what infer.py has written: .npz files, or folders of them, as of --shards,
            of which each that was begun has to be done; their paths start from --data_dir, else from here

    Raises InputError for what is not there, and for shards that are not done.
    """
    found: list[Path] = []
    for path in map(Path, embeddings or ()):
        if path.is_dir():
            found += _in_folder(path)
        elif not path.is_file():
            raise InputError(f"no file or folder {str(path)!r}")
        elif path.suffix != SUFFIX:
            raise InputError(f"{str(path)!r} is no file of embeddings: it has to end in {SUFFIX}")
        else:
            found.append(path)
    return found


def refuse_others(flags: Mapping[str, object]) -> None:
    """Raise InputError for flags that go with embedding, where embeddings are given."""
    given = [name for name in OTHERS if flags.get(name)]
    if given:
        raise InputError(f"--embeddings are made already; --{given[0]} does not go with them")


@contextlib.contextmanager
def open_ready(
    files: Sequence[Path], folder: str | Path, data_dir: str | None, fingerprint: dict | None
) -> Iterator[ReadyTable]:
    """The rows of all files one behind the other, a context in which their matrix stands on the disk, in `folder`.

    data_dir: the folder that relative paths start from. fingerprint: of the model that they have to be of. Raises
    InputError for a file of another model, of one that it does not tell, and for one that is damaged.
    """
    lists = []
    told: dict = {}
    rows: RowFile | None = None
    with contextlib.ExitStack() as opened:
        for file in files:
            table = read_table(str(file))
            _refuse_other_model(file, table, fingerprint)
            _refuse_other_count(file, len(table))
            if rows is None:
                rows = opened.enter_context(temporary_rows(folder, table.width))
            elif table.width != rows.width:
                raise InputError(
                    f"{str(file)!r} is damaged: its embeddings have {counted(table.width, 'number')}, those before "
                    f"{rows.width}"
                )
            rows.append(table.mapped())
            lists.append(table.records)
            # Of a network for images the one for texts may be told, or not: the longer one tells more.
            told = max(told, table.fingerprint, key=len)
        yield ReadyTable(EmbeddingTable(_joined(lists, data_dir), rows, told), _labels_of(lists))


def _in_folder(folder: Path) -> list[Path]:
    """The files of embeddings in a folder. Where shards have left their marks, each file has to have one."""
    files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX and not file.name.startswith("."))
    marks = {file.name.removesuffix(DONE): file for file in folder.iterdir() if file.name.endswith(DONE)}
    if not files:
        raise InputError(f"no {SUFFIX} in folder {str(folder)!r}")
    if not marks:
        return files
    for file in files:
        if marks.pop(file.name.removesuffix(SUFFIX), None) is None:
            raise InputError(
                f"{str(file)!r} has no mark {DONE}, so its shard is not whole; run infer.py --shards again"
            )
    for mark in marks.values():
        # A shard without an image has nothing but its mark.
        if _images_of(mark):
            raise InputError(f"{str(mark)!r}: the embeddings of this shard are gone; run infer.py --shards again")
    return files


def _images_of(mark: Path) -> object:
    """How many images a shard had, as its mark tells."""
    facts = read_json(mark)
    if not isinstance(facts, dict):
        return None
    return facts.get("images")


def _refuse_other_model(file: Path, table: EmbeddingTable, fingerprint: dict | None) -> None:
    if table.fingerprint is None:
        raise InputError(f"{str(file)!r} does not tell which model made it; an index takes what infer.py wrote")
    differ = differences(table.fingerprint, fingerprint or {})
    if differ is not None:
        raise InputError(f"{str(file)!r} was embedded by another model; what differs: {differ}")


def _refuse_other_count(file: Path, count: int) -> None:
    """Raise InputError where a shard's mark tells of another number of images."""
    mark = file.with_suffix(DONE)
    if mark.is_file() and _images_of(mark) != count:
        raise InputError(
            f"{str(file)!r} has {counted(count, 'embedding')}, but {str(mark)!r} tells of {_images_of(mark)}"
        )


def _joined(lists: Sequence[Records], data_dir: str | None) -> Records:
    """The rows of several lists one behind the other: paths, boxes, categories, and what labels are called."""
    paths: list[str] = []
    boxes: list[np.ndarray] = []
    categories: list[str] = []
    names: dict[str, str] = {}
    for records in lists:
        for path in records.paths.tolist():
            paths.append(path if data_dir is None or is_text(path) else str(Path(data_dir, path)))
        # A row of NaN is a whole image, and an empty text no category.
        boxes.append(np.full((len(records), 4), np.nan) if records.boxes is None else records.boxes)
        categories += [text or "" for text in categories_of(records) or [None] * len(records)]
        names |= records.names.label
    columns: dict[str, list | np.ndarray] = {"paths": paths}
    if any(records.boxes is not None for records in lists):
        columns["boxes"] = np.concatenate(boxes)
    if any(categories):
        columns["categories"] = categories
    return replace(Records.of_columns("--embeddings", columns), names=Names(names, {}))


def _labels_of(lists: Sequence[Records]) -> np.ndarray | list | None:
    """The labels of all rows: integers where all that are known are, else texts."""
    known = of_one_kind(*(records.labels for records in lists if records.labels is not None))
    if not known:
        return None
    if len(known) == len(lists):
        return np.concatenate(known)
    labels: list = []
    of_known = iter(known)
    for records in lists:
        if records.labels is None:
            labels += [None] * len(records)
        else:
            labels += next(of_known).tolist()
    return labels
