"""Pairs that are the same or not, in folds, drawn from a labelled list as those of LFW were from its people."""

import csv
import io
import os
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import replacing
from core.text import counted
from data.records import Records


def draw_pairs(records: Records, folds: int, pairs: int, seed: int) -> list[tuple[int, int, bool, int]]:
    """(row, row, whether they are of one label, fold from 1 on): of each fold so many pairs of one label and of two.

    Labels are divided among the folds at random, so that no fold knows a label of another. No pair comes twice. Raises
    InputError where a fold has fewer pairs than are wanted of it.
    """
    rng = np.random.default_rng(seed)
    codes = records.vocabulary.codes
    order = rng.permutation(len(records.vocabulary))
    drawn = []
    for fold in range(folds):
        rows = np.flatnonzero(np.isin(codes, order[fold::folds]))
        left, right = np.triu_indices(len(rows), 1)
        is_same = codes[rows[left]] == codes[rows[right]]
        for kind in (True, False):
            places = np.flatnonzero(is_same == kind)
            if len(places) < pairs:
                words = "one label" if kind else "two labels"
                raise InputError(
                    f"fold {fold + 1} of {folds} has {counted(len(places), 'pair')} of {words}, fewer than {pairs}; "
                    f"take fewer pairs or fewer folds of {records.source}"
                )
            for place in np.sort(rng.choice(places, pairs, replace=False)).tolist():
                drawn.append((int(rows[left[place]]), int(rows[right[place]]), kind, fold + 1))
    return drawn


def write_pairs(
    records: Records, folder: str | Path, drawn: list[tuple[int, int, bool, int]], path: str | Path
) -> None:
    """Write drawn pairs as a csv that eval.py --pairs_file reads, with paths from `folder` on."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["path1", "path2", "same", "fold"])
    names = [os.path.relpath(name, folder) for name in records.paths.tolist()]
    for left, right, is_same, fold in drawn:
        table.writerow([names[left], names[right], int(is_same), fold])
    with replacing(path) as file:
        file.write(stream.getvalue().encode(errors="surrogateescape"))
