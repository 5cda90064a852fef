"""What people said of pairs while they searched: feedback.csv, as evidence on labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.items import is_text
from data.formats.feedback import read_feedback
from data.records import Records
from retrieval.index.items import item_name, split_name

# What one click changes the odds of a wrong label by: somebody who clicks is taken to be right four times in five.
ODDS = 4.0


@dataclass(frozen=True)
class Click:
    """A pair of which somebody said whether it is the same, by the rows of a list."""

    query: int
    item: int
    same: bool


def read_clicks(file: str | Path, records: Records) -> tuple[list[Click], int]:
    """(the clicks on two rows of the list, how many are on others). Raises InputError for what is no such file."""
    rows = {_key(item_name(path, records.box_of(row))): row for row, path in enumerate(records.paths.tolist())}
    clicks = []
    elsewhere = 0
    for query, item, same in read_feedback(file):
        pair = [rows.get(_key(query)), rows.get(_key(item))]
        if None in pair or pair[0] == pair[1]:
            elsewhere += 1
        else:
            clicks.append(Click(*pair, same))
    return clicks, elsewhere


def _key(name: str) -> tuple[str, tuple[float, ...] | None]:
    """An item's path from the root, and its box: an index and a list may start from other folders."""
    if is_text(name):
        return name, None
    path, box = split_name(name)
    return os.path.abspath(path), box


def with_clicks(
    probability: np.ndarray, codes: np.ndarray, clicks: Sequence[Click]
) -> tuple[np.ndarray, dict[int, list[Click]]]:
    """(the probability (N,) that each label is wrong after the clicks, {row: clicks that contradict its label}).

    A click contradicts the labels, codes (N,), of a pair that is said to be the same and has two, or the other way
    round. It counts for both rows, of which it cannot tell the wrong one; one that agrees counts against.
    """
    odds = probability / np.maximum(1 - probability, 1e-9)
    # A row that nothing else is held against has the odds of a rare mistake.
    odds = np.maximum(odds, 0.02)
    touched = np.zeros(len(codes), bool)
    contradicted: dict[int, list[Click]] = {}
    for click in clicks:
        agrees = (codes[click.query] == codes[click.item]) == click.same
        for row in (click.query, click.item):
            odds[row] *= 1 / ODDS if agrees else ODDS
            touched[row] = True
            if not agrees:
                contradicted.setdefault(row, []).append(click)
    return np.where(touched, odds / (1 + odds), probability), contradicted
