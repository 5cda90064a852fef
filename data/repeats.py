"""Images that a list names more than once, whatever the paths look like: told, and to test with, each is one image."""

import dataclasses

import numpy as np


def image_keys(images) -> list[tuple]:
    """What tells the N images of an ImageList apart: the file on the disk, and the box that is cut from it.

    Paths may differ and lead to the same file, over `..`, links or hard links. Where nobody has looked at the files the
    paths have to do.
    """
    boxes = np.full((len(images), 4), -1.0) if images.boxes is None else np.nan_to_num(images.boxes, nan=-1.0)
    files = [(path,) for path in images.paths.tolist()] if images.files is None else images.files.tolist()
    return [(*file, *box) for file, box in zip(files, boxes.tolist())]


def find_repeats(images) -> np.ndarray:
    """For each of N images the row that names it first, (N,) int64; its own where no row before names it."""
    first = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(image_keys(images))], dtype=np.int64)


def note_repeats(images):
    """The ImageList with a note on the rows that name an image again, if there are any, also under another label."""
    first = find_repeats(images)
    again = np.flatnonzero(first != np.arange(len(images)))
    if not len(again):
        return images
    notes = [f"{_rows(images, again)} an image that a row before names, too; each is drawn as often as it is listed"]
    other = again[images.labels[again] != images.labels[first[again]]]
    if len(other):
        notes.append(f"{_rows(images, other)} an image that a row before gives another label")
    return dataclasses.replace(images, notes=(*images.notes, *notes))


def fold_repeats(images, faults, first=None):
    """The ImageList in which each image stands once, as a query and in the gallery if any of its rows is.

    A query would else find itself. `faults` is told of an image under two labels: what it finds cannot be judged.
    first (N,): the row that names each image first, None to look for it.
    """
    first = find_repeats(images) if first is None else first
    again = np.flatnonzero(first != np.arange(len(images)))
    if not len(again):
        return images
    for row in again[images.labels[again] != images.labels[first[again]]]:
        label, before = images.labels[row], images.labels[first[row]]
        place = f"line {images.lines[first[row]]}" if images.lines is not None else images.paths[first[row]]
        faults.say(
            0 if images.lines is None else int(images.lines[row]),
            f"the image {str(images.paths[row])!r} has the label {label}, but {before} by {place}",
        )
    is_query, is_gallery = images.is_query.copy(), images.is_gallery.copy()
    np.logical_or.at(is_query, first, images.is_query)
    np.logical_or.at(is_gallery, first, images.is_gallery)
    note = f"{_rows(images, again)} an image that a row before names, too; each image counts once"
    folded = dataclasses.replace(images, is_query=is_query, is_gallery=is_gallery, notes=(*images.notes, note))
    return folded.take(np.unique(first))


def _rows(images, rows: np.ndarray) -> str:
    place = images.paths[rows[0]] if images.lines is None else f"line {images.lines[rows[0]]}"
    number = f"1 row ({place}) names" if len(rows) == 1 else f"{len(rows)} rows ({place}, for one) name"
    return f"{images.source}: {number}"
