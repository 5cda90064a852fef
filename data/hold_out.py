"""Some labels of a train list, held out to validate with."""

import numpy as np

from core.errors import InputError
from core.text import counted
from data.formats.problems import Problems
from data.records import Records
from data.repeats import fold_repeats


def hold_out(records: Records, count: int, seed: int = 0) -> tuple[Records, Records]:
    """Split a list by label: `count` random labels for validation. Returns (train, validation).

    Which labels depends on `count` and `seed` alone, so that two stages of any --seed hold out the same. Each image to
    validate with stands once in its list. Raises InputError for more labels than there are, and for an image to
    validate with that stands under two labels.
    """
    is_held_out = held_out_mask(records, count, seed)
    problems = Problems()
    validation = fold_repeats(records.take(is_held_out), problems)
    if problems:
        raise InputError("\n".join(problems.lines(records.source)))
    return records.take(~is_held_out), validation


def held_out_mask(records: Records, count: int, seed: int = 0) -> np.ndarray:
    """Which images have one of `count` random labels, (N,) bool. Raises InputError for more labels than there are."""
    labels = records.vocabulary.labels
    if not 0 < count < len(labels):
        raise InputError(
            f"val_classes is {count}; with {counted(len(labels), 'train label')} it can be 1 to {len(labels) - 1}"
        )
    held_out = np.random.default_rng([seed, count]).permutation(labels)[:count]
    return np.isin(records.labels, held_out)
