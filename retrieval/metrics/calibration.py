"""From scores of pairs to P(same), by isotonic regression, and how far such probabilities can be believed.

Isotonic: of all curves that do not fall, the one with the least squared error (Zadrozny and Elkan, KDD 2002). It is
fitted to a PairHistogram, so of all pairs, in bins of 1/32768 of cosine. What share of pairs are of one label depends
on how many items there are to compare with, so that P(same) of one gallery is turned into that of another by the odds
(Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002).

A stretch of few pairs that all are the same says 1, and is believed too much. So each stretch of the curve is thought
to hold DOUBT pairs more, of which as many are the same as of all (the m-estimate: Cestnik, ECAI 1990).
"""

from dataclasses import dataclass

import numpy as np

from core.errors import InputError
from core.packages import needed
from retrieval.metrics.pairs import PairHistogram

BINS = 15  # of a reliability plot
DOUBT = 2  # pairs that a stretch of the curve is thought to hold beside its own


@dataclass(frozen=True)
class Calibration:
    """Knots of P(same): rising scores (n,), probabilities (n,) that do not fall; straight between them.

    odds: positive pairs per negative one where it was fitted.
    """

    scores: np.ndarray
    probabilities: np.ndarray
    odds: float

    def probability(self, scores: np.ndarray) -> np.ndarray:
        return np.interp(scores, self.scores, self.probabilities)

    def with_odds(self, odds: float) -> "Calibration":
        """The same where there are so many positive pairs per negative one."""
        ratio = odds / self.odds
        weighted = self.probabilities * ratio
        return Calibration(self.scores, weighted / (weighted + (1 - self.probabilities)), odds)


@dataclass(frozen=True)
class Reliability:
    """How probabilities of pairs fit what they are.

    brier: mean squared difference of P(same) and 1 or 0; brier_of_share: that of saying the share of positive pairs of
    all. ece: mean difference, over pairs, of the mean probability in one of BINS bins and the share that is the same.
    predicted, observed (n,): those two of each bin that has pairs, `pairs` (n,) how many.
    """

    brier: float
    brier_of_share: float
    ece: float
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    pairs: tuple[int, ...]


def check_package() -> None:
    """Raise InputError where the package that fits calibrations is missing."""
    needed("sklearn.isotonic", "calibration", "verification")


def calibrate(histogram: PairHistogram, directions: int = 1) -> Calibration:
    """The Calibration of all pairs of a histogram, which counts each of them `directions` times.

    Raises InputError without pairs of both kinds, and where scikit-learn is missing.
    """
    isotonic = needed("sklearn.isotonic", "calibration", "verification")
    counts = (histogram.positive + histogram.negative) / directions
    positives, negatives = int(histogram.positive.sum()), int(histogram.negative.sum())
    if not positives or not negatives:
        raise InputError(f"calibration needs pairs of both kinds; {positives} are positive and {negatives} negative")
    used = np.flatnonzero(counts)
    counts = counts[used]
    middles = _middles(histogram)[used]
    shares = histogram.positive[used] / directions / counts
    fitted = isotonic.isotonic_regression(shares, sample_weight=counts, y_min=0, y_max=1)
    # Each level stretch with pairs beside its own; then short ones may fall, and are fitted once more.
    _, stretch = np.unique(fitted, return_inverse=True)
    sizes = np.bincount(stretch, counts)[stretch]
    overall = positives / (positives + negatives)
    doubtful = (fitted * sizes + DOUBT * overall) / (sizes + DOUBT)
    smoothed = isotonic.isotonic_regression(doubtful, sample_weight=counts, y_min=0, y_max=1)
    scores, probabilities = _corners(middles, smoothed)
    return Calibration(scores, probabilities, positives / negatives)


def _middles(histogram: PairHistogram) -> np.ndarray:
    return (histogram.edges[:-1] + histogram.edges[1:]) / 2


def _corners(scores: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots without those that lie within a level stretch, and in float64."""
    scores, probabilities = scores.astype(np.float64), np.clip(probabilities.astype(np.float64), 0, 1)
    is_level = np.append(False, np.diff(probabilities) == 0)
    is_within = is_level & np.append(is_level[1:], False)
    return scores[~is_within], probabilities[~is_within]


def reliability(histogram: PairHistogram, calibration: Calibration, directions: int = 1) -> Reliability:
    """How the probabilities of a Calibration fit the pairs of a histogram, which had better be of other labels.

    directions: how often the histogram counts each pair.
    """
    positive, negative = histogram.positive / directions, histogram.negative / directions
    counts = positive + negative
    total = counts.sum()
    probabilities = calibration.probability(_middles(histogram))
    share = positive.sum() / total
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    pairs = np.bincount(bins, counts, BINS)
    used = np.flatnonzero(pairs)
    predicted = np.bincount(bins, counts * probabilities, BINS)[used] / pairs[used]
    observed = np.bincount(bins, positive, BINS)[used] / pairs[used]
    return Reliability(
        brier=float((positive * (1 - probabilities) ** 2 + negative * probabilities**2).sum() / total),
        brier_of_share=float(share * (1 - share)),
        ece=float((pairs[used] * np.abs(predicted - observed)).sum() / total),
        predicted=tuple(predicted.tolist()),
        observed=tuple(observed.tolist()),
        pairs=tuple(int(round(number)) for number in pairs[used]),
    )
