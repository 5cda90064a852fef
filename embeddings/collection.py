"""What an index is made of: a folder, whose sub-folders name labels, a list, or files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.text import counted
from core.types import Count
from data.embedded import unpack_what_is_named
from data.records import Records
from retrieval.index.folder import CARD


@dataclass(frozen=True)
class Collection:
    """Where an index is to stand, and what goes into it.

    index: its folder. inputs: as --input has them; None: those that other flags name. root: the folder that they all
    lie in, from the root of the disk, where it is a folder that was named. label_level: so many folders below it are
    the label.
    """

    index: str
    inputs: tuple[str, ...] | None
    root: str | None
    label_level: int


def open_collection(
    word: str, others: Sequence[str], *, index: str | None = None, label_level: Count | None = None
) -> Collection:
    """What `search.py build` and `sync` were asked for: the folder or list `word` into --index, or into `word` what
    other flags name.

    Options:
        index: the index's folder, where a folder, a list or a file of images comes first
        label_level: folders below the first one that name the label (default 1, in a sync that of the build), 2 for
            FOLDER/CATEGORY/LABEL/image.jpg; 0: nobody knows labels

    others: names of flags that were given and say what to embed as well. Raises InputError for both, and where nothing
    of that name is there.
    """
    level = 1 if label_level is None else label_level
    if index is None:
        return Collection(word, None, None, level)
    if others:
        raise InputError(
            f"{word!r} is what goes into --index={index}; leave --{others[0]} out, or give the index's folder first"
        )
    if not index.strip():
        raise InputError("--index is empty; give the folder that the index is to stand in")
    unpack_what_is_named(word)
    if not os.path.exists(word):
        raise InputError(f"no folder, list or file {word!r}")
    root = os.path.abspath(word) if os.path.isdir(word) else None
    if root is not None and os.path.abspath(index) == root:
        raise InputError(f"--index={index} is the folder of the images itself; an index takes a folder of its own")
    return Collection(index, (word,), root, level)


def refuse_taken(collection: Collection, overwrite: bool) -> None:
    """Raise InputError where there is an index already that a folder may well be brought into."""
    if collection.inputs is None or overwrite or not (Path(collection.index) / CARD).exists():
        return
    advice = f"python search.py add {collection.index} --input {collection.inputs[0]}"
    if collection.root is not None:
        advice = f"python search.py sync {collection.inputs[0]} --index={collection.index}"
    raise InputError(
        f"{collection.index!r} already holds an index; bring it up to date with {advice}, or replace it with "
        "--overwrite=True"
    )


def labels_below(root: str, paths: Sequence[str], level: int) -> list[str | None]:
    """The label of each file below a folder: the names of the first `level` folders that it lies in, None where it does
    not lie so deep. A label is text, so that it stays the same whatever other folders come."""
    labels = []
    for path in paths:
        folders = Path(os.path.relpath(os.path.abspath(path), root)).parts[:-1]
        if level and len(folders) >= level:
            labels.append("/".join(folders[:level]))
        else:
            labels.append(None)
    return labels


def categories_below(root: str, paths: Sequence[str], level: int) -> list[str | None]:
    """The category of each file below a folder, from level 2 on: the folders of its label but the last one."""
    labels = labels_below(root, paths, level)
    return [label.rpartition("/")[0] or None if label is not None else None for label in labels]


def with_folder_columns(records: Records, collection: Collection) -> Records:
    """Records of a folder with the labels that its sub-folders name, where every file has one, and the categories;
    others as they are."""
    if collection.root is None or records.labels is not None:
        return records
    paths = records.paths.tolist()
    labels = labels_below(collection.root, paths, collection.label_level)
    categories = categories_below(collection.root, paths, collection.label_level)
    if any(categories):
        # An empty text is no category.
        records = replace(records, categories=np.array([category or "" for category in categories]))
    if None in labels:
        return records
    return replace(records, labels=np.array(labels))


def labels_of(records: Records, collection: Collection) -> np.ndarray | list[str | None] | None:
    """The label of each row as an index takes them; of a folder some may have none."""
    if collection.root is None or records.labels is not None:
        return records.labels
    return labels_below(collection.root, records.paths.tolist(), collection.label_level)


def label_sentence(labels: np.ndarray | Sequence[str | None] | None) -> str:
    """How many labels are known, in words."""
    known = [label for label in ([] if labels is None else list(labels)) if label is not None]
    if not known:
        return "nobody knows labels"
    text = counted(len(set(known)), "label")
    unknown = len(labels) - len(known)
    return f"{text}, {counted(unknown, 'row')} without one" if unknown else text
