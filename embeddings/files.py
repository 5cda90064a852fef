"""Embeddings in files: written as .npz and .json, read from strangers."""

import json

import numpy as np
import torch

from core.errors import InputError, meant_by
from core.files import read_npz, replacing, write_npz
from data.formats.columns import tell_unknown
from data.formats.problems import Problems
from data.names import NO_NAMES, Names
from data.records import Records
from data.repeats import find_repeats, fold_repeats
from retrieval.index.items import item_name

TEXT, INTEGERS, FLAGS, NUMBERS = "U", "iu", "b", "f"  # numpy's kinds
COLUMNS = {"paths": TEXT, "labels": TEXT + INTEGERS, "is_query": FLAGS, "is_gallery": FLAGS}
COLUMNS |= {"categories": TEXT + INTEGERS, "sequences": TEXT + INTEGERS, "boxes": NUMBERS}
OF_OURS = ("model", "names", "format")  # what stands in our .npz beside the columns
FORMAT = 2  # before it an unknown label was -1
UNKNOWN = -1


def save_embeddings(path, images, embeddings, card):
    """Write embeddings, a tensor, a RowFile or Ordered, with their list's columns and the model's fingerprint as .npz.

    Where nobody knows labels there is no such column.
    """
    columns = {name: getattr(images, name) for name in COLUMNS if getattr(images, name) is not None}
    names = {kind: getattr(images.names, kind) for kind in ("label", "category")}
    columns |= {"names": np.array(json.dumps(names))} if any(names.values()) else {}
    embeddings = embeddings.numpy() if torch.is_tensor(embeddings) else embeddings
    facts = {"model": np.array(json.dumps(card)), "format": np.array(FORMAT)}
    write_npz(path, {**columns, "embeddings": embeddings, **facts})


def save_json(path, images, rows):
    """Write a RowFile or Ordered as {path: embedding}, `item_name` being the key; one that comes twice stands once."""
    hashes = np.fromiter((hash(path) for path in images.paths), np.int64, len(images))
    comes_twice = len(np.unique(hashes)) < len(images)  # else there is no need to remember names
    done, written = 0, set()
    with replacing(path) as file:
        before = b"{"
        for block in rows.blocks(memory=2**18):
            for place, row in enumerate(block.tolist(), start=done):
                name = item_name(images.paths[place], images.box_of(place))
                if name in written:
                    continue
                if comes_twice:
                    written.add(name)
                file.write(before + f"{json.dumps(name)}: {json.dumps(row)}".encode())
                before = b", "
            done += len(block)
        file.write(b"}")


def load_embeddings(path):
    """(ImageList, embeddings (N, D), fingerprint or None) of an .npz with embeddings and labels, ours or another's.

    What it does not hold is filled in: every row a query and in the gallery, numbers for paths. Raises InputError for
    missing columns, mistyped ones, lengths that differ, and unknown labels.
    """
    arrays = read_npz(path, ("embeddings",))
    if "labels" not in arrays:
        hint = meant_by("labels", [name for name in arrays if name not in COLUMNS])
        raise InputError(f"{str(path)!r} has no labels, so there is nothing to count as right or wrong.{hint}")
    notes = _unused(path, arrays)
    embeddings, labels = arrays["embeddings"], arrays["labels"]
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(
            f"{str(path)!r}: the embeddings are {shape}; evaluation needs floating-point (N, D), not empty"
        )
    everyone = np.ones(len(embeddings), dtype=bool)
    defaults = {
        "paths": np.array([f"{i}" for i in range(len(embeddings))]),
        "is_query": everyone,
        "is_gallery": everyone,
    }
    columns = {**defaults, **{name: arrays[name] for name in COLUMNS if name in arrays}}
    for name, column in columns.items():
        if column.shape != (len(embeddings), 4)[: 2 if name == "boxes" else 1]:
            shape = len(column) if column.ndim == 1 else column.shape
            raise InputError(f"{str(path)!r}: {shape} {name} for {len(embeddings)} embeddings")
    for name, column in columns.items():
        if column.dtype.kind not in COLUMNS[name]:
            raise InputError(f"{str(path)!r}: the {name} are {column.dtype}; their kind has to be {COLUMNS[name]!r}")
    unknown = 0 if "format" in arrays or labels.dtype.kind not in "iu" else int((labels == UNKNOWN).sum())
    if unknown == len(labels):
        raise InputError(f"{str(path)!r}: the labels are all {UNKNOWN}, that is, unknown; evaluation needs others")
    if unknown:
        notes.append(f"{path}: {unknown} rows have the label {UNKNOWN}, which counts as a label like any other")
    for flag in ("is_query", "is_gallery"):
        if not columns[flag].any():
            raise InputError(f"{str(path)!r}: {flag} is False everywhere: there is nobody to ask, or nothing to find")
    images = Records(str(path), **columns, notes=tuple(notes), names=_read_names(arrays, path))
    images, embeddings = _each_once(images, embeddings)
    return images, torch.from_numpy(embeddings), _read_card(arrays, path)


def _each_once(images, embeddings):
    """An ImageList and its embeddings without rows that are another one's in path, box and every number.

    Such a row, as of an image that is once a query and once in the gallery, would be found as a right answer.
    """
    first = find_repeats(images)
    again = np.flatnonzero(first != np.arange(len(images)))
    others = again[(embeddings[again] != embeddings[first[again]]).any(1)]
    first[others] = others
    faults = Problems()
    folded = fold_repeats(images, faults, first)
    if faults:
        raise InputError("\n".join(faults.lines(images.source)))
    return folded, embeddings[np.unique(first)]


def _unused(path, arrays):
    """Sentences on arrays of an .npz that nothing reads. Raises InputError for one that seems a mistyped column."""
    mistyped = []
    unused = tell_unknown(list(arrays), ["embeddings", "labels"], [*COLUMNS, *OF_OURS], mistyped.append)
    if mistyped:
        raise InputError(f"{str(path)!r}: {mistyped[0]}")
    return [f"{path}: arrays that are not used: {', '.join(map(repr, unused))}"] if unused else []


def _read_names(arrays, path):
    """The names of labels and categories among the arrays of an .npz."""
    if "names" not in arrays:
        return NO_NAMES
    try:
        kinds = json.loads(str(arrays["names"]))
        return Names(*({str(key): str(name) for key, name in kinds[kind].items()} for kind in ("label", "category")))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{str(path)!r}: names are not those of labels and categories as JSON") from None


def _read_card(arrays, path):
    """The model's fingerprint among the arrays of an .npz; None where there is none."""
    try:
        card = json.loads(str(arrays["model"])) if "model" in arrays else None
    except ValueError:
        card = "no JSON"
    if not isinstance(card, dict | None):
        raise InputError(
            f"{str(path)!r}: model is {str(card)[:40]!r}, expected what tells of a model as JSON, or nothing"
        )
    return card
