"""An index and the tables of a list: built of one, added to by one, searched by one; rows of a list deleted."""

import math
import os
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy.typing as npt

from core.console import log
from core.errors import InputError
from core.items import is_text
from core.text import shown_path
from core.types import OneOf, Paths
from data.formats import parse
from data.formats.problems import Problems, first_faults
from data.lists import find_list, is_list
from data.records import Records
from embeddings.table import EmbeddingTable
from models import ModelSettings
from models.trained import read_settings
from models.weights import is_published
from retrieval.index.folder import CARD
from retrieval.index.index import Added, Index
from retrieval.index.items import Lookup, absolute_paths


def build_index(
    table: EmbeddingTable,
    folder: str,
    source: str,
    options: dict,
    labels: npt.ArrayLike | None = None,
    facts: dict | None = None,
    *,
    backend: Annotated[str, OneOf("retrieval/index/backends")] = "exact",
    overwrite: bool = False,
) -> Index:
    """Make the index of a table in a folder.

    Options:
        backend: one of {retrieval/index/backends}; its own flags: --backend=NAME --help
        overwrite: replace an index that is in that folder

    source: the --pretrained_model, which the card remembers. options: of the backend, {name: value}. labels: of the
    rows (None: the table's own), of which some may be None. facts: more for the card's origin. Raises InputError as
    Index.build.
    """
    return Index.build(
        folder,
        table.mapped(),
        absolute_paths(table.records.paths),
        table.records.labels if labels is None else labels,
        table.fingerprint,
        backend,
        options,
        overwrite,
        {"pretrained_model": model_source(source, table.fingerprint), **(facts or {})},
        boxes=table.records.boxes,
        names=table.records.names.label,
        categories=categories_of(table.records),
    )


def add_to_index(index: Index, table: EmbeddingTable, labels: npt.ArrayLike | None = None) -> Added:
    """Add a table to an index; what became of its images. labels: as of `build_index`. Raises InputError as
    Index.add."""
    return index.add(
        table.mapped(),
        absolute_paths(table.records.paths),
        table.records.labels if labels is None else labels,
        table.fingerprint,
        boxes=table.records.boxes,
        names=table.records.names.label,
        categories=categories_of(table.records),
    )


def categories_of(records: Records) -> list[str | None] | None:
    """What the category of each of N rows is called, None where its cell is empty; None for a list without them."""
    if records.categories is None:
        return None
    return [text if text.strip() else None for text in records.category_texts.tolist()]


def delete_from_index(index: Index, data_dir: str | None = None, *, input: Paths | None = None) -> int:
    """Delete images, one box, all that lies below a folder, or the rows of a list; returns how many items that is.

    Options:
        input: images (with all of their boxes), IMAGE#L,T,R,B (one box, as tables show it), folders, or a list (exactly
            its rows)

    Images need not exist any more. Raises InputError, and deletes nothing, where one of them is not in the index.
    """
    if not input:
        raise InputError("delete needs --input")
    lookup = Lookup(index.rows)
    items = []
    for text, path in zip(input, absolute_paths(input)):
        below = lookup.below(path)
        # What the index holds comes first: an image may be named like a list.
        if lookup.ids(path) or below:
            if lookup.ids(path):
                items.append(path)
            items += below
        elif is_list([text]):
            items += _rows_of_list(text, data_dir)
        else:
            items.append(path)  # which Index.delete refuses by its name
    return index.delete(items)


def _rows_of_list(path: str, data_dir: str | None) -> list[tuple[str, tuple[float, ...] | None]]:
    """(path from the root, box or None) of each row of a list, whose images need not be there any more."""
    file, folder = find_list(path, data_dir)
    if file is None:
        raise InputError(f"no list {str(path)!r}, neither in {str(folder)!r} nor from here")
    problems = Problems()
    columns = parse(file, None, problems)
    if problems:
        raise InputError("\n".join(first_faults(problems.lines(file))))
    # Images within archives have whole paths.
    root = Path() if "files" in columns else folder
    paths = absolute_paths(path if is_text(path) else root / path for path in columns["paths"])
    if not columns.get("boxes"):
        return [(path, None) for path in paths]
    boxes = [None if math.isnan(box[0]) else tuple(box) for box in columns["boxes"]]
    return list(zip(paths, boxes))


def model_of_index(index: Index) -> tuple[str, dict]:
    """The --pretrained_model that an index was built with, and its fingerprint, which tells its model flags.

    Raises InputError where the card names no model, and where that is gone.
    """
    origin = index.card["origin"] or {}
    source = origin.get("pretrained_model")
    if not isinstance(source, str) or not source:
        raise InputError(f"index {str(index.folder)!r}: its card names no model; give --pretrained_model")
    fingerprint = index.card["fingerprint"]
    if not is_published(source, _model_of(fingerprint)) and not os.path.exists(source):
        raise InputError(
            f"index {str(index.folder)!r}: its model {source!r} is not there any more; give --pretrained_model"
        )
    return source, fingerprint or {}


def model_source(source: str, fingerprint: dict | None) -> str:
    """A --pretrained_model as a card remembers it: from the root of the disk, unless it is the name of weights."""
    if is_published(source, _model_of(fingerprint)):
        return source
    return os.path.abspath(source)


def _model_of(fingerprint: dict | None) -> str | None:
    """The backbone that a fingerprint tells of, of whose weights a name may be; towers have one each."""
    return (fingerprint or {}).get("model")


def settings_for_index(settings: ModelSettings, typed: Container[str], index: Index) -> ModelSettings:
    """`settings` with the model of an index; what of them was typed stays. Raises InputError as model_of_index."""
    source, facts = model_of_index(index)
    log(f"--pretrained_model={shown_path(source)} taken from {index.folder}")
    made = read_settings(facts, index.folder / CARD)
    left_open = {name: value for name, value in made.items() if name not in typed}
    return replace(settings, pretrained_model=source, **left_open)


def folder_on_its_disk(folder: str | Path) -> Path:
    """An index's folder, or the nearest above it that is there: what waits for the index fits onto its disk."""
    folder = Path(os.path.abspath(folder))
    while not folder.is_dir():
        folder = folder.parent
    return folder
