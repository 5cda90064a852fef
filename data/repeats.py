"""Images that a list names more than once, whatever the paths look like: told, and to test with, each is one image."""

import dataclasses

import numpy as np

from data.formats.problems import Problems
from data.records import Records

BETWEEN_TEXTS = "\x1e"  # ASCII's record separator, where an image that stands once has several texts
NO_BOX = -1.0  # stands for NaN, which is not equal to itself


def image_keys(records: Records) -> list[tuple]:
    """What tells N images apart: the file on the disk, and the box that is cut from it.

    Paths may differ and lead to the same file, over `..`, links or hard links. Where nobody has looked at the files the
    paths have to do.
    """
    if records.files is None:
        files = [(path,) for path in records.paths.tolist()]
    else:
        files = records.files.tolist()
    if records.boxes is None:
        boxes = np.full((len(records), 4), NO_BOX)
    else:
        boxes = np.nan_to_num(records.boxes, nan=NO_BOX)
    return [(*file, *box) for file, box in zip(files, boxes.tolist())]


def find_repeats(records: Records) -> np.ndarray:
    """For each of N images the row that names it first, (N,) int64; its own where no row before names it."""
    first_rows = {}
    return np.array([first_rows.setdefault(key, row) for row, key in enumerate(image_keys(records))], dtype=np.int64)


def note_repeats(records: Records) -> Records:
    """The list with a note on the rows that name an image again, if there are any, also under another label."""
    first = find_repeats(records)
    # Rows that are not the first of their image.
    again = np.flatnonzero(first != np.arange(len(records)))
    if not len(again):
        return records
    noun = "an image" if records.noun == "image" else f"a {records.noun}"
    notes = [f"{_rows(records, again)} {noun} that a row before names, too; each is drawn as often as it is listed"]
    relabelled = _with_another_label(records, first, again)
    if len(relabelled):
        notes.append(f"{_rows(records, relabelled)} {noun} that a row before gives another label")
    return records.with_notes(notes)


def fold_repeats(records: Records, problems: Problems, first: np.ndarray | None = None) -> Records:
    """The list in which each image stands once, as a query and in the gallery if any of its rows is.

    A query would else find itself. An image under two labels is one of the `problems`: what it finds cannot be judged.
    first (N,): the row that names each image first, None to look for it.
    """
    if first is None:
        first = find_repeats(records)
    again = np.flatnonzero(first != np.arange(len(records)))
    if not len(again):
        return records
    for row in _with_another_label(records, first, again):
        line = 0 if records.lines is None else int(records.lines[row])
        label, first_label = records.labels[row], records.labels[first[row]]
        sentence = f"has the label {label}, but {first_label} by {_row_name(records, first[row])}"
        problems.add(line, f"the {records.name_of(row)} {sentence}")

    is_query, is_gallery = records.is_query.copy(), records.is_gallery.copy()
    # Unlike an assignment by index, `at` takes every row of an image into account.
    np.logical_or.at(is_query, first, records.is_query)
    np.logical_or.at(is_gallery, first, records.is_gallery)
    noun = "an image" if records.noun == "image" else f"a {records.noun}"
    note = f"{_rows(records, again)} {noun} that a row before names, too; each {records.noun} counts once"
    folded = dataclasses.replace(records, is_query=is_query, is_gallery=is_gallery).with_notes([note])
    if records.texts is not None:
        folded = dataclasses.replace(folded, texts=_texts_of_images(records.texts, first))
    return folded.take(np.unique(first))


def _texts_of_images(texts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(N,) str: in the first row of an image the distinct texts of all its rows, BETWEEN_TEXTS between them."""
    of_image = {}
    for row, text in zip(first.tolist(), texts.tolist()):
        if text:
            of_image.setdefault(row, {})[text] = None
    together = [BETWEEN_TEXTS.join(of_image.get(row, ())) for row in range(len(texts))]
    return np.array(together)


def _with_another_label(records: Records, first: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Those of the rows `again` whose label is not the one that their image has in its first row."""
    return again[records.labels[again] != records.labels[first[again]]]


def _rows(records: Records, rows: np.ndarray) -> str:
    """The beginning of a sentence about some rows of a list."""
    example = _row_name(records, rows[0])
    count = f"1 row ({example}) names" if len(rows) == 1 else f"{len(rows)} rows ({example}, for one) name"
    return f"{records.source}: {count}"


def _row_name(records: Records, row: int) -> str:
    """What a row of a list is called within it: its line, or its path where it has none."""
    if records.lines is None:
        return str(records.paths[row])
    return f"line {records.lines[row]}"
