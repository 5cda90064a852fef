"""What a sampler refuses: batches that its labels and categories cannot fill."""

import numpy as np

from core.errors import InputError
from core.text import counted, plural
from data.vocabulary import Vocabulary


def fitting(most: int, multiple: int, least: int) -> str:
    """The end of a sentence on a batch that does not fit: the largest one of at most `most` images that does.

    multiple: what its size is divisible by. least: images that a batch has at least; where `most` are fewer, nothing
    fits, and nothing is said.
    """
    size = most - most % multiple
    return f"; --train_batch_size={size} fits" if size >= least else ""


def labels_of_batch(batch_size: int, samples_each_class: int) -> int:
    """How many labels a batch holds. Raises InputError where that is no whole number of 2 or more."""
    if samples_each_class < 2:
        raise InputError(f"samples_each_class is {samples_each_class}, but a pair needs at least 2")
    if batch_size % samples_each_class:
        advice = fitting(max(batch_size, 2 * samples_each_class), samples_each_class, 2 * samples_each_class)
        raise InputError(
            f"train_batch_size {batch_size} is not divisible by samples_each_class {samples_each_class}{advice}"
        )
    labels = batch_size // samples_each_class
    if labels < 2:
        raise InputError(
            f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds one label only, "
            "but a negative needs a second one"
        )
    return labels


def refuse_few_labels(
    vocabulary: Vocabulary, batch_size: int, samples_each_class: int, needed: int, groups: int = 1
) -> None:
    """Raise InputError where there are fewer labels than `needed` for a batch.

    groups: what the number of its labels is divisible by.
    """
    if needed > len(vocabulary):
        # Where labels of each of several categories are counted, sizes of batches do not follow from their number.
        advice = ""
        if needed * samples_each_class == batch_size:
            multiple = groups * samples_each_class
            advice = fitting(len(vocabulary) * samples_each_class, multiple, max(multiple, 2 * samples_each_class))
        raise InputError(
            f"train_batch_size {batch_size} with samples_each_class {samples_each_class} needs "
            f"{counted(needed, 'label')}, but the train list has {len(vocabulary)}{advice}"
        )


def refuse_singletons(vocabulary: Vocabulary) -> None:
    """Raise InputError where a label has one image only."""
    singletons = np.flatnonzero(vocabulary.counts == 1)
    if len(singletons):
        has = plural(len(singletons), "has", "have")
        raise InputError(
            f"{len(singletons)} of {counted(len(vocabulary), 'train label')} {has} a single image "
            f"(label {vocabulary.labels[singletons[0]]}, for one), but this sampler needs two of each; pk does not"
        )


def as_categories(vocabulary: Vocabulary, categories: Vocabulary | np.ndarray, n_categories: int) -> Vocabulary:
    """The labels' categories, as a vocabulary. Raises InputError unless a batch can have `n_categories` of them."""
    if not isinstance(categories, Vocabulary):
        categories = Vocabulary.of(categories)
    if len(categories.codes) != len(vocabulary):
        raise ValueError(f"{counted(len(categories.codes), 'category')} of {counted(len(vocabulary), 'label')}")
    if not 1 <= n_categories <= len(categories):
        raise InputError(
            f"n_categories is {n_categories}; with {counted(len(categories), 'category')} it can be 1 to that many"
        )
    return categories


def labels_of_category(batch_size: int, samples_each_class: int, n_categories: int) -> int:
    """How many labels of each of its categories a batch holds. Raises InputError where that is no whole number."""
    labels = labels_of_batch(batch_size, samples_each_class)
    if labels % n_categories:
        raise InputError(
            f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds "
            f"{counted(labels, 'label')}, which is not divisible by n_categories {n_categories}"
        )
    return labels // n_categories


def refuse_single_labels(labels_each_category: int, n_categories: int) -> None:
    """Raise InputError where a batch holds one label of each category only."""
    if labels_each_category < 2:
        raise InputError(
            f"with n_categories {n_categories} a batch holds one label of each category only, but a negative of the "
            "same category needs a second one"
        )


def refuse_short_categories(categories: Vocabulary, needed: int, advice: str) -> None:
    """Raise InputError where a category has fewer labels than `needed`; advice: how the sentence ends."""
    short = np.flatnonzero(categories.counts < needed)
    if len(short):
        first = short[0]
        raise InputError(
            f"a batch takes {counted(needed, 'label')} of a category, but {len(short)} of "
            f"{counted(len(categories), 'category')} have fewer "
            f"({categories.labels[first]} has {categories.counts[first]}, for one); {advice}"
        )
