"""From scores of pairs to P(same), by isotonic regression, and how far such probabilities can be believed.

Isotonic: of all curves that do not fall, the one with the least squared error (Zadrozny and Elkan, KDD 2002). It is
fitted to a PairHistogram, so of all pairs, in bins of 1/32768 of cosine. What share of pairs are of one label depends
on how many items there are to compare with, so that P(same) of one gallery is turned into that of another by the odds
(Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002).
"""

from dataclasses import dataclass

import numpy as np

from core.errors import InputError
from core.packages import needed
from retrieval.metrics.pairs import PairHistogram

BINS = 15  # of a reliability plot


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
        return Calibration(self.scores, weighted / (weighted + 1 - self.probabilities), odds)


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


def calibrate(histogram: PairHistogram) -> Calibration:
    """The Calibration of all pairs of a histogram.

    Raises InputError without pairs of both kinds, and where scikit-learn is missing.
    """
    isotonic = needed("sklearn.isotonic", "calibration", "verification")
    counts = histogram.positive + histogram.negative
    positives, negatives = int(histogram.positive.sum()), int(histogram.negative.sum())
    if not positives or not negatives:
        raise InputError(f"calibration needs pairs of both kinds; {positives} are positive and {negatives} negative")
    used = np.flatnonzero(counts)
    middles = _middles(histogram)[used]
    regression = isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    regression.fit(middles, histogram.positive[used] / counts[used], sample_weight=counts[used])
    scores, probabilities = _corners(regression.X_thresholds_, regression.y_thresholds_)
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
