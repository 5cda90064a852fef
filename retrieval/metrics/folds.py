"""Accuracy of same or not by folds, as the pairs of Labeled Faces in the Wild are used.

Of each fold the accuracy is told with the threshold that is best on all others (Huang et al., UMass Amherst TR 07-49,
section IV: mean and standard error over ten folds).
"""

from dataclasses import dataclass

import numpy as np

from core.errors import InputError
from core.text import counted, plural


@dataclass(frozen=True)
class Folds:
    """Accuracies and thresholds of F folds by name; mean of the accuracies, and its standard error."""

    names: tuple[str, ...]
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    pairs: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def standard_error(self) -> float:
        """Sample standard deviation of the accuracies over the root of their number."""
        return float(np.std(self.accuracies, ddof=1) / np.sqrt(len(self.accuracies)))


def check_folds(is_same: np.ndarray, folds: np.ndarray) -> None:
    """Raise InputError for fewer than two folds, and for one that has pairs of one kind only.

    is_same (P,) bool; folds (P,): names.
    """
    names = np.unique(folds)
    if len(names) < 2:
        raise InputError(f"pairs in folds need two folds or more; the only one is {str(names[0])!r}")
    for name in names:
        kinds = is_same[folds == name]
        if kinds.all() or not kinds.any():
            kind = "same" if kinds.all() else "different"
            raise InputError(
                f"fold {str(name)!r}: all of its {counted(len(kinds), 'pair')} {plural(len(kinds), 'is', 'are')} "
                f"{kind}; a fold needs pairs of both kinds"
            )


def fold_accuracies(scores: np.ndarray, is_same: np.ndarray, folds: np.ndarray) -> Folds:
    """The Folds of P pairs: scores (P,), is_same (P,) bool, folds (P,) names. Raises InputError as check_folds."""
    check_folds(is_same, folds)
    names = np.unique(folds)
    accuracies, thresholds, sizes = [], [], []
    for name in names:
        is_tested = folds == name
        threshold = best_accuracy_threshold(scores[~is_tested], is_same[~is_tested])
        is_right = (scores[is_tested] >= threshold) == is_same[is_tested]
        accuracies.append(float(is_right.mean()))
        thresholds.append(threshold)
        sizes.append(int(is_tested.sum()))
    return Folds(tuple(str(name) for name in names), tuple(accuracies), tuple(thresholds), tuple(sizes))


def best_accuracy_threshold(scores: np.ndarray, is_same: np.ndarray) -> float:
    """The score from which pairs are called the same with most of them right; of equally good ones the highest."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # With the first n accepted: those of them that are the same, and those behind that are not.
    right = np.cumsum(is_same[order]) + (~is_same).sum() - np.cumsum(~is_same[order])
    # Equal scores are accepted together.
    right = np.where(np.append(np.diff(ordered) != 0, True), right, -1)
    best = int(right.argmax())
    if right[best] < (~is_same).sum():  # to accept none is better
        return float(np.nextafter(ordered[0], np.inf))
    return float(ordered[best])
