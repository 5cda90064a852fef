"""Rows that have an image and a text: as pairs to train with, as rows of their own to test on."""

import dataclasses

import numpy as np

from core.errors import InputError
from core.items import is_text, text_item
from data.formats.csv import TEXT_NOT_USED
from data.records import Records
from data.repeats import BETWEEN_TEXTS


def as_pairs(records: Records) -> Records:
    """A train list of which each row is a pair. Raises InputError for the first row that is none."""
    for row, path in enumerate(records.paths.tolist()):
        if is_text(path) or records.texts is None or not records.texts[row]:
            lacks = "no path of an image" if is_text(path) else "no text"
            raise InputError(
                f"{records.location(row)}: {records.name_of(row)} has {lacks}, and the loss clip learns from pairs: a "
                "csv with the columns path and text, both filled in every row to train with"
            )
    return _without_note(records)


def as_questions(records: Records) -> Records:
    """A test list of pairs as texts that ask, each text of a label once, and images that are found.

    A list whose texts stand in rows of their own is as it says itself.
    """
    has_text = np.zeros(len(records), dtype=bool)
    if records.texts is not None:
        has_text = records.texts != ""
    if not has_text.any():
        return records
    # Each text of a label asks once, from where it stands first.
    rows_of_texts = {}
    for row in np.flatnonzero(has_text).tolist():
        for text in records.texts[row].split(BETWEEN_TEXTS):
            rows_of_texts.setdefault((records.labels[row], text), row)
    asked = records.take(np.array(list(rows_of_texts.values())))
    texts = np.array([text_item(text) for _, text in rows_of_texts])
    nobody, everyone = np.zeros(len(asked), dtype=bool), np.ones(len(asked), dtype=bool)
    # What tells files apart does not tell these texts apart.
    asked = dataclasses.replace(asked, paths=texts, is_query=everyone, is_gallery=nobody, files=None, boxes=None)
    images = dataclasses.replace(
        records, is_query=records.is_query & ~has_text, is_gallery=records.is_gallery | has_text, files=None
    )
    return _without_note(_joined(asked, images))


def _joined(first: Records, second: Records) -> Records:
    """One list of the rows of two of the same source; of boxes, which texts have none of, NaN."""
    columns = {}
    for name in ("paths", "labels", "is_query", "is_gallery", "categories", "sequences", "lines"):
        if getattr(first, name) is not None:
            columns[name] = np.concatenate([getattr(first, name), getattr(second, name)])
    if second.boxes is not None:
        columns["boxes"] = np.concatenate([np.full((len(first), 4), np.nan), second.boxes])
    return dataclasses.replace(second, **columns, texts=None)


def _without_note(records: Records) -> Records:
    """The list without the note that its texts are not used."""
    return dataclasses.replace(records, notes=tuple(note for note in records.notes if not note.endswith(TEXT_NOT_USED)))
