"""Are two items of one label? TAR at FAR, EER and thresholds, exact over all pairs or over those of a list.

A pair is accepted where its score is no less than a threshold. FAR is the share of negative pairs that are accepted,
TAR that of positive ones. All pairs are streamed as in retrieval/metrics/pairs.py: a histogram says between which
scores a threshold lies, and only there exact scores are held.

Intervals come from labels drawn with replacement, since pairs that share a label are not independent: a negative pair
of labels a and b counts w_a w_b times, a positive one of label a w_a times, where w are how often labels were drawn.
That is the vertex bootstrap of networks (Snijders and Borgatti, Connections 22(2), 1999; for matching, arXiv
2306.01198), here with the ROC curve kept at some levels of the score. Nothing is scored again: what is kept of each
block of pairs is how many of them, by label and label, reach a level.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from core.slices import CACHED_NUMBERS, MEMORY, slices_within
from core.text import counted
from retrieval.metrics.pairs import BINS, PairBlock, PairHistogram, Tally, bracket, pair_blocks, pair_histogram
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
COVERAGE = 0.95  # of intervals
STEP = 2**-0.5  # from a level's FAR to the next one's
SPARSE = 16  # of so many pairs one at most: then pairs are looked at one by one

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rate:
    """A share with the interval that it has over labels, None where none was asked for or no label has enough pairs."""

    value: float
    interval: Interval | None

    def as_result(self) -> dict:
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}

    def as_text(self) -> str:
        """In %."""
        if self.interval is None:
            return f"{100 * self.value:.2f}"
        low, high = self.interval
        return f"{100 * self.value:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


@dataclass(frozen=True)
class Point:
    """Where FAR is no more than wished: the score from which pairs are accepted, and what that gives on these pairs.

    threshold_interval: what the score for this FAR would be with other labels.
    """

    wished: float
    threshold: float
    threshold_interval: Interval | None
    far: float
    false_accepts: int
    tar: Rate


@dataclass(frozen=True)
class AtThreshold:
    """What a threshold that comes from elsewhere gives on these pairs."""

    threshold: float
    far: Rate
    false_accepts: int
    tar: Rate


@dataclass(frozen=True)
class Verification:
    """Figures of pairs: how many of both kinds there are, of how many labels, and what was found.

    eer_threshold: the least score that is accepted where FAR and 1 - TAR meet. left_out: FARs that are finer than one
    negative pair. at: of the thresholds that were given. histogram: of all pairs, each counted `directions` times.
    """

    positives: int
    negatives: int
    labels: int
    points: tuple[Point, ...]
    left_out: tuple[float, ...]
    eer: Rate
    eer_threshold: float
    at: tuple[AtThreshold, ...]
    histogram: PairHistogram
    directions: int
    resamples: int

    def point(self, far: float) -> Point:
        """That of a wished FAR. Raises InputError where it is finer than the pairs allow."""
        for point in self.points:
            if point.wished == far:
                return point
        raise InputError(too_fine(far, self.negatives))


def too_fine(far: float, negatives: int) -> str:
    """The sentence on a FAR of which not one negative pair would be left."""
    return (
        f"a FAR of {far:g} of {counted(negatives, 'negative pair', ',')} is less than one pair; the finest that they "
        f"allow is {1 / max(1, negatives):.2g}"
    )


def allowed_accepts(far: float, negatives: int) -> int:
    """How many negative pairs may be accepted at a FAR; what rounding takes from 0.29 x 100 is given back."""
    return math.floor(far * negatives * (1 + 1e-12))


def check_fars(fars: Sequence[float], negatives: int) -> None:
    """Raise InputError for FARs outside 0 to 1, and for those that are finer than so many negative pairs allow."""
    for far in fars:
        if not 0 < far < 1:
            raise InputError(f"a FAR of {far:g} is none: it lies between 0 and 1, both left out")
        if negatives and not allowed_accepts(far, negatives):
            raise InputError(too_fine(far, negatives))


@torch.no_grad()
def verify_all_pairs(
    query_gallery: QueryGallery,
    fars: Sequence[float] = FARS,
    thresholds: Sequence[float] = (),
    resamples: int = 1000,
    seed: int = 0,
    distance: str = "cosine",
    memory: int = MEMORY,
) -> Verification:
    """The Verification of all pairs of queries and gallery; where both are the same rows each pair counts once.

    thresholds: scores to tell FAR and TAR of. resamples: times that labels are drawn for intervals, 0 for none. Raises
    InputError without pairs of both kinds, and where labels are unknown.
    """
    histogram = pair_histogram(query_gallery, distance, memory)
    directions = 2 if query_gallery.one_against_rest else 1
    totals = _totals(histogram)
    # Where each wished threshold lies, and where the error rates meet.
    negatives = totals[1] // directions
    places = {far: allowed_accepts(far, negatives) for far in fars}
    tallies = {
        far: Tally(*bracket(histogram, directions * place)) for far, place in places.items() if 0 < place < negatives
    }
    meeting = Tally(*_meeting_bracket(histogram))
    rising = sorted([*tallies.values(), meeting], key=lambda tally: tally.low)
    codes = torch.cat([query_gallery.query_labels, query_gallery.gallery_labels])
    resampled = Resampled(codes, _levels(histogram, tallies, thresholds, resamples), resamples, seed)
    for block in pair_blocks(query_gallery, Scores(query_gallery, distance), torch.float64, memory):
        # What is below a bracket is below those above it, too, and never looked at again.
        negative = block.negative
        for tally in rising:
            negative = negative[negative >= tally.low]
            tally.add(negative, block.positive, block.weight)
        resampled.add_block(block)
    return _verification(histogram, tallies, meeting, resampled, fars, thresholds, directions)


@torch.no_grad()
def verify_listed_pairs(
    scores: np.ndarray,
    is_same: np.ndarray,
    left_labels: np.ndarray,
    right_labels: np.ndarray,
    fars: Sequence[float] = FARS,
    thresholds: Sequence[float] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Verification:
    """The Verification of P pairs: scores (P,), whether they are of one label (P,) bool, labels of both sides (P,).

    As `verify_all_pairs`.
    """
    scores = np.asarray(scores, dtype=np.float32).astype(np.float64)
    _, codes = np.unique(np.concatenate([left_labels, right_labels]), return_inverse=True)
    left, right = torch.from_numpy(codes.reshape(2, -1))
    histogram = listed_histogram(scores, is_same)
    negatives = _totals(histogram)[1]
    # All scores are at hand, so that one tally holds them for every wish.
    whole = Tally(-math.inf, math.inf)
    positive, negative = torch.from_numpy(scores[is_same]), torch.from_numpy(scores[~is_same])
    whole.add(negative, positive, 1)
    tallies = {far: whole for far in fars if 0 < allowed_accepts(far, negatives) < negatives}
    resampled = Resampled(torch.cat([left, right]), _levels(histogram, tallies, thresholds, resamples), resamples, seed)
    mask = torch.from_numpy(is_same)
    resampled.add_positives(positive, left[mask], 1)
    resampled.add_negatives(negative, left[~mask], right[~mask])
    return _verification(histogram, tallies, whole, resampled, fars, thresholds, 1)


def listed_histogram(scores: np.ndarray, is_same: np.ndarray) -> PairHistogram:
    """The PairHistogram of P pairs of scores (P,)."""
    low = min(-1.0, float(scores.min(initial=0)))
    edges = np.linspace(low, max(1.0, float(scores.max(initial=0))), BINS + 1)
    positive, negative = (np.histogram(scores[mask], edges)[0].astype(np.int64) for mask in (is_same, ~is_same))
    return PairHistogram(edges, positive, negative, float(edges[1] - edges[0]))


def _totals(histogram: PairHistogram) -> tuple[int, int]:
    """How many positive and negative pairs there are. Raises InputError unless there are both."""
    positives, negatives = int(histogram.positive.sum()), int(histogram.negative.sum())
    if not positives or not negatives:
        raise InputError(
            f"same or not needs pairs of one label and of two; here {positives:,} are of one and {negatives:,} of two"
        )
    return positives, negatives


def _meeting_bracket(histogram: PairHistogram) -> tuple[float, float]:
    """Scores (low, high) between which FAR and 1 - TAR meet."""
    positives, negatives = _totals(histogram)
    rejected = np.append(0, np.cumsum(histogram.positive))
    accepted = negatives - np.append(0, np.cumsum(histogram.negative))
    first = int(np.flatnonzero(_surplus(rejected, accepted, positives, negatives) <= 0)[-1])
    last = min(first + 1, len(histogram.edges) - 1)
    return histogram.edges[first] - histogram.rounding_bound, histogram.edges[last] + histogram.rounding_bound


def _levels(
    histogram: PairHistogram, fars: Iterable[float], thresholds: Sequence[float], resamples: int
) -> torch.Tensor:
    """Rising scores (G,), float64, at which ROC curves are kept.

    The first is below all pairs, the last above all negative ones; between them FAR falls by STEP from level to level,
    and the wished FARs and given thresholds are levels of their own. Where labels are not drawn these thresholds are
    all.
    """
    if not resamples:
        return _as_float32(np.array(thresholds, dtype=np.float64))
    closer = np.cumsum(histogram.negative[::-1])
    wished = STEP ** np.arange(0, math.log(closer[-1]) / -math.log(STEP) + 1)
    wished = np.append(wished, list(fars))
    places = np.searchsorted(closer, wished * closer[-1])
    edges = histogram.edges[::-1]
    bottom = edges[-1] - 1 - histogram.rounding_bound
    largest = edges[np.flatnonzero(histogram.negative[::-1])[0]]
    top = largest + 2 * histogram.rounding_bound + 1e-6 * abs(largest)
    between = edges[np.minimum(places + 1, len(edges) - 1)]
    return _as_float32(np.concatenate([[bottom, top], between, thresholds]))


def _as_float32(levels: np.ndarray) -> torch.Tensor:
    """The least float32 that are no less, rising and each once, in float64: the same scores, float32, reach them."""
    rounded = levels.astype(np.float32)
    rounded = np.where(rounded < levels, np.nextafter(rounded, np.float32(math.inf)), rounded)
    return torch.from_numpy(np.unique(rounded).astype(np.float64))


def _surplus(rejected: np.ndarray, accepted: np.ndarray, positives: int, negatives: int) -> np.ndarray:
    """By how much 1 - TAR is more than FAR, in units of 1 / (positives x negatives): whole numbers, so that none is 0
    but where they are equal.
    """
    # Those of many pairs are beyond 64 bits.
    kind = np.int64 if positives * negatives < 2**62 else object
    return rejected.astype(np.int64).astype(kind) * negatives - accepted.astype(np.int64).astype(kind) * positives


class Resampled:
    """How many pairs have a score of a level or more, of all labels and of labels drawn with replacement.

    codes: (n,) int64, the labels that there are, each any number of times. levels: (G,) rising scores.
    """

    def __init__(self, codes: torch.Tensor, levels: torch.Tensor, resamples: int, seed: int):
        device = codes.device
        self.levels = levels.to(device)
        present, numbers = torch.unique(codes, return_inverse=True)
        self.labels = len(present)
        self.number_of = torch.full((int(present.max()) + 1,), -1, device=device)
        self.number_of[codes] = numbers
        draws = np.random.default_rng(seed).multinomial(self.labels, [1 / self.labels] * self.labels, resamples)
        # How often each label was drawn, a column a time; products of many are sums in float32, good to 1e-6 of them.
        self.weights = torch.from_numpy(draws.T.astype(np.float32)).to(device).contiguous()
        self.negative_counts = np.zeros(len(levels), np.int64)
        self.negative = torch.zeros(len(levels), resamples, dtype=torch.float64, device=device)
        self._positive_tables = torch.zeros(self.labels, len(levels) + 1, dtype=torch.float64, device=device)

    def add_positives(self, scores: torch.Tensor, labels: torch.Tensor, weight: int) -> None:
        """Pairs of one label: scores (p,), labels (p,)."""
        # How many levels a score reaches, beside its label, as one number that can be counted.
        reached = torch.searchsorted(self.levels, scores.double(), right=True)
        width = len(self.levels) + 1
        cells = self.number_of[labels] * width + reached
        self._positive_tables += weight * cells.bincount(minlength=self.labels * width).view(self.labels, width)

    def add_negatives(self, scores: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        """Pairs of two labels, one by one: scores (p,), labels (p,) of both sides."""
        reached = torch.searchsorted(self.levels, scores.double(), right=True)
        left, right = self.number_of[left], self.number_of[right]
        exactly = torch.zeros(len(self.levels) + 1, self.weights.shape[1], dtype=torch.float64, device=left.device)
        for part in slices_within(len(scores), max(1, self.weights.shape[1]), CACHED_NUMBERS):
            exactly.index_add_(0, reached[part], (self.weights[left[part]] * self.weights[right[part]]).double())
        self.negative += _from_above(exactly)
        counts = reached.bincount(minlength=len(self.levels) + 1).double()
        self.negative_counts += _from_above(counts[:, None])[:, 0].long().cpu().numpy()

    def add_block(self, block: PairBlock) -> None:
        """The pairs of one block (retrieval/metrics/pairs.py)."""
        self.add_positives(block.positive, block.positive_labels, block.weight)
        rows, row_of = self.number_of[block.row_labels].unique_consecutive(return_inverse=True)
        columns, column_of = self.number_of[block.column_labels].unique_consecutive(return_inverse=True)
        left, right = self.weights[rows], self.weights[columns]
        shape = (len(rows), len(columns))
        # Low levels are reached by many pairs, which are counted where they stand; few are listed.
        values = cells = None
        for number, level in enumerate(self.levels):
            if values is None:
                is_reached = block.negative >= level
                count = int(torch.count_nonzero(is_reached))
                if count and count * SPARSE < block.negative.numel():
                    row, column = is_reached.nonzero(as_tuple=True)
                    values = block.negative[row, column]
                    cells = row_of[row] * len(columns) + column_of[column]
            else:
                is_left = values >= level
                values, cells = values[is_left], cells[is_left]
                count = len(values)
            if not count:
                break
            self.negative_counts[number] += block.weight * count
            if not self.weights.shape[1]:
                continue
            if values is None:
                table = _table_of(is_reached, row_of, column_of, shape)
                sums = ((table @ right) * left).sum(0, dtype=torch.float64)
            elif count < len(rows) * len(columns) // SPARSE:
                sums = torch.zeros_like(self.negative[0])
                for part in slices_within(count, self.weights.shape[1], CACHED_NUMBERS):
                    products = left[cells[part] // len(columns)] * right[cells[part] % len(columns)]
                    sums += products.sum(0, dtype=torch.float64)
            else:
                table = cells.bincount(minlength=shape[0] * shape[1]).view(shape).float()
                sums = ((table @ right) * left).sum(0, dtype=torch.float64)
            self.negative[number] += block.weight * sums

    @property
    def positive_counts(self) -> np.ndarray:
        """(G,) int64: how many positive pairs have a level or more."""
        return _from_above(self._positive_tables.sum(0)[:, None])[:, 0].long().cpu().numpy()

    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """(FAR, TAR), each (G, R), of R drawings in which pairs of both kinds came."""
        if not self.weights.shape[1]:
            return np.zeros((len(self.levels), 0)), np.zeros((len(self.levels), 0))
        exactly = self._positive_tables.T @ self.weights.double()
        positive, negative = _from_above(exactly).cpu().numpy(), self.negative.cpu().numpy()
        is_any = (positive[0] > 0) & (negative[0] > 0)
        return negative[:, is_any] / negative[0, is_any], positive[:, is_any] / positive[0, is_any]


def _table_of(
    is_reached: torch.Tensor, row_of: torch.Tensor, column_of: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """How many True there are by label and label, `shape` float32, of a mask (m, n)."""
    by_column = torch.zeros(shape[1], shape[0], device=is_reached.device)
    for part in slices_within(len(row_of), is_reached.shape[1], 16 * CACHED_NUMBERS):
        by_row = torch.zeros(shape[0], is_reached.shape[1], device=is_reached.device)
        by_row.index_add_(0, row_of[part], is_reached[part].float())
        by_column.index_add_(0, column_of, by_row.T.contiguous())
    return by_column.T


def _from_above(exactly: torch.Tensor) -> torch.Tensor:
    """From numbers (G + 1, B) of pairs that reach exactly 0 to G levels to those (G, B) that reach a level or more."""
    return exactly.flip(0).cumsum(0).flip(0)[1:]


def equal_error(far: np.ndarray, tar: np.ndarray) -> tuple[float, int]:
    """(the error rate where FAR = 1 - TAR, the first place behind it) of a ROC curve (n,) from strict to lenient.

    The curve is straight between its points and begins at 0, 0. far, tar: shares.
    """
    error, place = _meeting(np.append(0.0, far), 1 - np.append(0.0, tar) - np.append(0.0, far))
    return error, place - 1


def _meeting(far: np.ndarray, surplus: np.ndarray) -> tuple[float, int]:
    """`equal_error` from FAR, and from how much more 1 - TAR is, in any unit; the first point lies before it."""
    behind = int(np.flatnonzero(surplus <= 0)[0])
    before = behind - 1
    share = surplus[before] / (surplus[before] - surplus[behind])
    return float(far[before] + share * (far[behind] - far[before])), behind


def _verification(
    histogram: PairHistogram,
    tallies: dict[float, Tally],
    meeting: Tally,
    resampled: Resampled,
    fars: Sequence[float],
    thresholds: Sequence[float],
    directions: int,
) -> Verification:
    """The figures of what was counted. directions: how often each pair was."""
    positives, negatives = _totals(histogram)
    curves = far_curves, tar_curves = resampled.curves()
    error, eer_threshold = _where_errors_meet(meeting, positives, negatives)
    errors = [equal_error(far[::-1], tar[::-1])[0] for far, tar in zip(far_curves.T, tar_curves.T)]
    return Verification(
        positives=positives // directions,
        negatives=negatives // directions,
        labels=resampled.labels,
        points=_points(tallies, resampled, curves, positives, negatives, directions),
        left_out=tuple(far for far in fars if far not in tallies),
        eer=Rate(error, _interval(np.array(errors))),
        eer_threshold=eer_threshold,
        at=_at_thresholds(thresholds, resampled, curves, positives, negatives, directions),
        histogram=histogram,
        directions=directions,
        resamples=far_curves.shape[1],
    )


def _points(
    tallies: dict[float, Tally],
    resampled: Resampled,
    curves: tuple[np.ndarray, np.ndarray],
    positives: int,
    negatives: int,
    directions: int,
) -> tuple[Point, ...]:
    """The threshold of each FAR, and the TAR there. curves: those of `resampled`."""
    far_curves, tar_curves = curves
    levels = resampled.levels.cpu().numpy()
    points = []
    for far, tally in tallies.items():
        # The negative pair behind those that may be accepted: just above its score the threshold lies.
        refused = np.float32(tally.negative_at(directions * allowed_accepts(far, negatives // directions)))
        scores, negative, positive = tally.inside()
        false_accepts = tally.negatives_above + int(negative[scores > refused].sum())
        accepted = positives - tally.positives_below - int(positive[scores <= refused].sum())
        points.append(
            Point(
                wished=far,
                threshold=float(np.nextafter(refused, np.float32(math.inf))),
                threshold_interval=_interval(_read_curves(far, far_curves, levels)),
                far=false_accepts / negatives,
                false_accepts=false_accepts // directions,
                tar=Rate(accepted / positives, _interval(_read_curves(far, far_curves, tar_curves))),
            )
        )
    return tuple(points)


def _where_errors_meet(meeting: Tally, positives: int, negatives: int) -> tuple[float, float]:
    """(equal error rate, its threshold), from the stretch of the ROC curve on which the errors meet."""
    scores, negative, positive = (numbers[::-1] for numbers in meeting.inside())
    accepted_before = positives - meeting.positives_below - positive.sum()
    # With the points before and behind it.
    far = np.append(0, np.cumsum(negative)) + meeting.negatives_above
    tar = np.append(0, np.cumsum(positive)) + accepted_before
    error, place = _meeting(far / negatives, _surplus(positives - tar, far, positives, negatives))
    return error, float(scores[place - 1])


def _at_thresholds(
    thresholds: Sequence[float],
    resampled: Resampled,
    curves: tuple[np.ndarray, np.ndarray],
    positives: int,
    negatives: int,
    directions: int,
) -> tuple[AtThreshold, ...]:
    """FAR and TAR at thresholds that were chosen elsewhere. curves: those of `resampled`."""
    far_curves, tar_curves = curves
    levels = resampled.levels.cpu().numpy()
    at = []
    for threshold in thresholds:
        level = int(np.searchsorted(levels, threshold))
        at.append(
            AtThreshold(
                threshold=threshold,
                far=Rate(float(resampled.negative_counts[level] / negatives), _interval(far_curves[level])),
                false_accepts=int(resampled.negative_counts[level]) // directions,
                tar=Rate(float(resampled.positive_counts[level] / positives), _interval(tar_curves[level])),
            )
        )
    return tuple(at)


def _read_curves(far: float, far_curves: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R,): values at a FAR, straight between levels. far_curves: (G, R), falling; values: (G, R), or (G,) of all."""
    if not far_curves.size:
        return np.zeros(0)
    columns = np.broadcast_to(values.reshape(len(far_curves), -1), far_curves.shape)
    return np.array([np.interp(far, fars[::-1], column[::-1]) for fars, column in zip(far_curves.T, columns.T)])


def _interval(values: np.ndarray) -> Interval | None:
    """Where the middle COVERAGE of values (R,) lies; None of fewer than two."""
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
