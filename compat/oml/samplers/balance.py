"""Batches of labels in equal numbers."""

from compat.oml._errors import RefusedAssertion, raised_as, require
from compat.oml.samplers._epochs import EpochsByOurs, Labels
from data.samplers.balance import BalanceSampler as Balanced
from data.vocabulary import Vocabulary
from core.text import counted


class BalanceSampler(EpochsByOurs):
    """n_instances items of each of n_labels labels, each label at most once an epoch.

    Raises RefusedAssertion for batches that labels cannot fill, and for a label with a single item.
    """

    def __init__(self, labels: Labels, n_labels: int = 2, n_instances: int = 2) -> None:
        vocabulary = Vocabulary.of(labels)
        are_whole = isinstance(n_labels, int) and isinstance(n_instances, int)
        require(are_whole, f"n_labels is {n_labels!r}, n_instances {n_instances!r}; they are whole numbers")
        is_possible = 1 < n_labels <= len(vocabulary)
        require(is_possible, f"n_labels is {n_labels}; with {counted(len(vocabulary), 'label')} it is 2 to that many")
        require(n_instances > 1, f"n_instances is {n_instances}; a pair needs 2")
        self.n_labels = n_labels
        self.n_instances = n_instances
        with raised_as(RefusedAssertion):
            self.sampler = Balanced(vocabulary, n_labels * n_instances, n_instances)


__all__ = ["BalanceSampler"]
