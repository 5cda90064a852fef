"""Batches of labels that lie close to each other."""

from typing import Literal

import numpy as np

from core.errors import InputError
from core.types import Cosine, Count, Positive
from core.text import counted
from data.samplers._batches import SAMPLERS, SteppedSampler
from data.samplers._checks import labels_of_batch, refuse_few_labels
from data.samplers._draws import ITS_OWN_POSITIVE, draw_rounds
from data.vocabulary import Vocabulary

BLOCK = 2**24  # cosines that exist at a time


@SAMPLERS.register("neighbours")
class NeighbourSampler(SteppedSampler):
    """`samples_each_class` images of each of batch_size / samples_each_class labels, in groups of close labels.

    A group is a seed and the labels nearest to it that are not in the batch yet, `nearest` labels in all. Every label
    is a seed once an epoch, as far as they fill batches. So it is with the labels of a batch that it is confused with,
    which it hardly ever meets by chance.

    Which labels are close is in `neighbours`, which whoever trains sets before batches are asked for, and sets again
    when it is outdated: `nearest_labels` makes it of a point for each label. An epoch's seeds hang on its number alone,
    the rest of a batch on the table in use.

    Options:
        nearest: labels in a group: one, and those closest to it
        closeness: by cosines of the means of each label's train embeddings (means), or of class weights (weights): the
            loss's own or kept ones, or those of the --pretrained_model run
        refresh_steps: steps after which neighbours are looked for anew; 0: once, before the first step
        lookalike: labels of a higher cosine are no neighbours, but one thing under two names
    """

    singletons = ITS_OWN_POSITIVE

    def __init__(
        self,
        labels: Vocabulary | np.ndarray,
        batch_size: int,
        samples_each_class: int,
        nearest: Positive = 4,
        closeness: Literal["means", "weights"] = "means",
        refresh_steps: Count = 0,
        lookalike: Cosine = 1.0,
    ):
        super().__init__(labels, batch_size)
        self.samples_each_class = samples_each_class
        self.nearest = nearest
        self.closeness = closeness
        self.refresh_steps = refresh_steps
        self.lookalike = lookalike
        self.labels_in_batch = labels_of_batch(batch_size, samples_each_class)
        refuse_few_labels(self.vocabulary, batch_size, samples_each_class, self.labels_in_batch, nearest)
        if nearest < 2:
            raise InputError("nearest is 1, but a group needs a second label, that is close to the first; or take pk")
        if self.labels_in_batch % nearest:
            raise InputError(
                f"train_batch_size {batch_size} with samples_each_class {samples_each_class} holds "
                f"{counted(self.labels_in_batch, 'label')}, which is not divisible by nearest {nearest}"
            )
        self.seeds_in_batch = self.labels_in_batch // nearest
        self.steps = len(self.vocabulary) // self.seeds_in_batch
        # Those of a batch may be taken by other groups, but never more than are in it.
        self.neighbours_shape = (len(self.vocabulary), self.labels_in_batch - 1)
        self.neighbours: np.ndarray | None = None

    def batch(self, number: int, position: int) -> np.ndarray:
        if self.neighbours is None:
            raise InputError("which of its labels are neighbours is not known; take another --sampler")
        order = self._generator(number).permutation(len(self.vocabulary))
        start = position * self.seeds_in_batch
        codes = self._groups(order[start : start + self.seeds_in_batch].tolist())
        rng = self._batch_generator(number, position)
        return np.concatenate([draw_rounds(rng, self.vocabulary, code, self.samples_each_class) for code in codes])

    def _groups(self, seeds: list[int]) -> list[int]:
        """The labels of a batch, group by group, each led by its seed."""
        # A seed is the first of its own group, whoever else is close to it.
        taken = set(seeds)
        codes = []
        for seed in seeds:
            codes.append(seed)
            free = [code for code in self.neighbours[seed].tolist() if code not in taken]
            group = free[: self.nearest - 1]
            codes += group
            taken.update(group)
        return codes


def nearest_labels(points: np.ndarray, count: int, lookalike: float = 1.0) -> np.ndarray:
    """For each of C labels the `count` others of the highest cosine, the closest first, (C, count) int64.

    points: (C, D) float32, one for each label. Labels of a cosine above `lookalike` come behind all others.
    """
    # In float64, in which the squares of small numbers are not zero.
    lengths = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    units = (points / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    neighbours = np.empty((len(units), count), np.int64)
    rows = max(1, BLOCK // len(units))
    for start in range(0, len(units), rows):
        block = slice(start, start + rows)
        cosines = units[block] @ units.T
        if lookalike < 1:
            cosines[cosines > lookalike] -= 3
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        closest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, closest, axis=1), axis=1, kind="stable")
        neighbours[block] = np.take_along_axis(closest, order, axis=1)
    return neighbours
