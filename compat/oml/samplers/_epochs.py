"""Samplers of this repository, whose batches have no end, as OML's, which give an epoch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compat.oml._errors import RefusedType
from compat.oml.interfaces.samplers import IBatchSampler
from core.errors import InputError
from core.text import counted, plural
from data.samplers import BatchSampler
from data.vocabulary import Vocabulary

Labels = Sequence[int] | np.ndarray
SEEDS = 2**31  # of which one is drawn for an epoch


class EpochsByOurs(IBatchSampler):
    """`sampler`: one of data/samplers. Each epoch is another one, drawn by numpy's global generator.

    n_labels, n_instances, and of samplers of categories n_categories: the sizes of a batch.
    """

    sampler: BatchSampler
    n_labels: int
    n_instances: int

    @property
    def batch_size(self) -> int:
        """Items in a batch."""
        return self.sampler.batch_size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        # So np.random.seed decides it, as it does there.
        seed = int(np.random.randint(SEEDS))
        return iter(self.sampler.starting(seed).epoch(0).tolist())


def check_whole(**numbers: Any) -> None:
    """Raise RefusedType for a number that is none, by its name."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise RefusedType(f"{name} is {number!r}; it is a whole number")


def check_category_sizes(
    vocabulary: Vocabulary, categories: np.ndarray, n_categories: int, n_labels: int, n_instances: int
) -> None:
    """Raise InputError for a batch that cannot be, by OML's names of its sizes."""
    check_whole(n_categories=n_categories, n_labels=n_labels, n_instances=n_instances)
    most = len(np.unique(categories))
    if not 1 <= n_categories <= most:
        raise InputError(f"n_categories is {n_categories}; with {counted(most, 'category')} it is 1 to that many")
    if not 1 < n_labels <= len(vocabulary):
        raise InputError(f"n_labels is {n_labels}; with {counted(len(vocabulary), 'label')} it is 2 to that many")
    if n_instances < 2:
        raise InputError(f"n_instances is {n_instances}; a pair needs 2")


def categories_of(vocabulary: Vocabulary, label2category: Mapping[int, str | int]) -> np.ndarray:
    """The category of each label (C,). Raises InputError unless just the labels have one."""
    if not isinstance(label2category, Mapping):
        raise RefusedType(
            f"label2category is {label2category!r}; it is a dictionary, get_label2category() of a table with a category"
        )
    labels = vocabulary.labels.tolist()
    without = [label for label in labels if label not in label2category]
    if without:
        raise InputError(
            f"{len(without)} of {counted(len(labels), 'label')} {plural(len(without), 'has', 'have')} no category "
            f"({without[0]}, for one)"
        )
    others = [label for label in label2category if label not in set(labels)]
    if others:
        raise InputError(f"label2category has {counted(len(others), 'label')} that no item has ({others[0]}, for one)")
    return np.asarray([label2category[label] for label in labels])
