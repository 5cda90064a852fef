"""What people said of a search's answers: pairs of images that are the same, or are not (a server's feedback.csv)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.console import log
from core.errors import InputError
from core.items import is_text, modality_of
from core.text import counted, plural
from data.formats.feedback import read_feedback
from data.records import Records
from data.soundness import refuse_broken_images
from retrieval.index.items import split_name

FAULTS_SHOWN = 5
LEARN_FROM_PAIRS = ("whitening",)  # --loss_name that takes them


@dataclass(frozen=True)
class Feedback:
    """P pairs of rows of `records`, each image once: first (P,), second (P,) int64; same (P,) bool."""

    records: Records
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def open_feedback(loss_name: str, test: Records | None = None, *, feedback: str | None = None) -> Feedback | None:
    """Pairs to learn from beside the train list; None without any.

    Options:
        feedback: learn also from the pairs of this feedback.csv of search.py serve (columns query, item, same)

    Of lines about the same two images the last one counts; lines with a text in place of an image are left out. test: a
    list that is tested on, which should have none of these images. Raises InputError for another file, for images that
    are not there, and for a loss that learns from no pairs.
    """
    if feedback is None:
        return None
    if loss_name not in LEARN_FROM_PAIRS:
        raise InputError(
            f"--feedback goes with --loss_name={' or '.join(LEARN_FROM_PAIRS)}, which learns from pairs; {loss_name} "
            "takes labels"
        )
    pairs = _read(Path(feedback))
    names = sorted({name for pair in pairs for name in pair})
    paths, boxes = zip(*(_located(name, Path(feedback)) for name in names), strict=True)
    columns = {"paths": list(paths)}
    if any(box is not None for box in boxes):
        columns["boxes"] = [box or (np.nan,) * 4 for box in boxes]
    records = Records.of_columns(feedback, columns)
    refuse_broken_images([records])
    if test is not None:
        _note_tested(records, test)
    row_of = {name: row for row, name in enumerate(names)}
    first, second = np.array([[row_of[name] for name in pair] for pair in pairs], np.int64).T
    return Feedback(records, first, second, np.array(list(pairs.values())))


def _read(file: Path) -> dict[tuple[str, str], bool]:
    """{(name, name): whether they are the same} of a file's lines about two images."""
    pairs: dict[tuple[str, str], bool] = {}
    texts = 0
    for query, item, same in read_feedback(file):
        if is_text(query) or is_text(item):
            texts += 1
        elif query != item:
            pair = (min(query, item), max(query, item))
            pairs.pop(pair, None)  # the last word on two images counts
            pairs[pair] = same
    if texts:
        clause = "1 line is about a text and is" if texts == 1 else f"{texts} lines are about texts and are"
        log(f"{file}: {clause} left out")
    if not pairs:
        raise InputError(f"feedback {str(file)!r} has no pair of images to learn from")
    unknown = [name for name in dict.fromkeys(name for pair in pairs for name in pair) if _located(name, file) is None]
    if unknown:
        shown = ", ".join(map(repr, unknown[:FAULTS_SHOWN]))
        raise InputError(
            f"{file} names {counted(len(unknown), 'image')} that {plural(len(unknown), 'is', 'are')} not there: "
            f"{shown}; is it of an index of this machine, and are its images where they were?"
        )
    return pairs


def _located(name: str, file: Path) -> tuple[str, tuple[float, ...] | None] | None:
    """(path, box or None) of an item's name, whose path starts from the file where it does not from the root."""
    for path, box in ((name, None), split_name(name)):
        path = os.path.join(file.parent, path)
        if os.path.isfile(path) and modality_of(path) == "image":
            return path, box
    return None


def _note_tested(records: Records, test: Records) -> None:
    tested = {os.path.abspath(path) for path in test.paths.tolist()}
    seen = sum(os.path.abspath(path) in tested for path in records.paths.tolist())
    if seen:
        log(
            f"note: {seen} of {counted(len(records), 'image')} of the feedback {plural(seen, 'is', 'are')} tested on, "
            "too, which flatters the test"
        )


def pair_counts(feedback: Sequence[bool]) -> str:
    """How many pairs there are, in words."""
    right = int(np.sum(feedback))
    return (
        f"{counted(right, 'pair')} that {plural(right, 'is', 'are')} the same and {len(feedback) - right} that "
        f"{plural(len(feedback) - right, 'is', 'are')} not"
    )
