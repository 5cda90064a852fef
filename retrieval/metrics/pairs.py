"""Figures over all pairs of a query and a gallery item, streamed: no pair is left out and none is held.

A pair is positive where both have one label. A query makes no pair with itself nor with items of its sequence; where
queries and gallery are the same rows, each pair counts once in both directions, which changes no share.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from core.errors import InputError
from core.slices import MEMORY
from retrieval.blocks import Products, share_a_code
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores

BINS = 2**16
MOST_HELD = 2**22  # exact scores held before equal ones are put together
TINY = 1e-300  # in the place of 0 in a denominator


class Threshold(NamedTuple):
    """A score from which on pairs are called positive, and how right that is."""

    score: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class PairHistogram:
    """How many positive and negative pairs have a score in each of many narrow bins.

    edges (BINS + 1,) float64: rising scores, larger being closer (retrieval/exact.py). positive, negative (BINS,)
    int64. rounding_bound: by how much a score may be off in sorting it into a bin.
    """

    edges: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    rounding_bound: float

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(precision, recall, edge), each (n,): calling positive what scores an edge or more, from the highest down."""
        right = np.cumsum(self.positive[::-1])
        wrong = np.cumsum(self.negative[::-1])
        called = right + wrong
        is_any = called > 0
        edges = self.edges[:-1][::-1]
        return right[is_any] / called[is_any], right[is_any] / max(1, right[-1]), edges[is_any]

    def pr_auc(self) -> float:
        """Area under the precision-recall curve by trapezoids, as EasyDL's pr_auc. Raises without a positive pair."""
        self._require_positives()
        precision, recall, _ = self.curve()
        precision = np.r_[1.0, precision]
        recall = np.r_[0.0, recall]
        return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())

    def average_precision(self) -> float:
        """Area under the precision-recall curve by steps, as the literature has it."""
        self._require_positives()
        precision, recall, _ = self.curve()
        return float((precision * np.diff(np.r_[0.0, recall])).sum())

    def best_threshold(self) -> Threshold:
        """Where calling positive what scores so much has the best F1."""
        self._require_positives()
        precision, recall, edges = self.curve()
        f1 = 2 * precision * recall / np.maximum(precision + recall, TINY)
        best = int(f1.argmax())
        return Threshold(float(edges[best]), float(f1[best]), float(precision[best]), float(recall[best]))

    def _require_positives(self) -> None:
        if not self.positive.sum():
            raise InputError("no two items have the same label, so there is no positive pair to speak of")


@torch.no_grad()
def pair_histogram(query_gallery: QueryGallery, distance: str = "cosine", memory: int = MEMORY) -> PairHistogram:
    """The PairHistogram of queries against a gallery. Raises InputError where labels are unknown."""
    scores = Scores(query_gallery, distance)
    low, high = (-2.0, 0.0) if scores.euclidean else (-1.0, 1.0)  # of fast units
    device = query_gallery.device
    # Bin 0 takes what is below all edges: the -infinity of pairs that are none.
    positive_counts = torch.zeros(BINS + 1, dtype=torch.int64, device=device)
    negative_counts = torch.zeros(BINS + 1, dtype=torch.int64, device=device)
    for block in pair_blocks(query_gallery, scores, torch.float32, memory):
        for counts, values in ((positive_counts, block.positive), (negative_counts, block.negative)):
            # In place: values are as many as pairs.
            bins = values.sub_(low).mul_(BINS / (high - low)).clamp_(-1, BINS - 1).floor_().int().add_(1)
            counts += block.weight * bins.flatten().bincount(minlength=BINS + 1)
    edges = scores.from_fast_units(torch.linspace(low, high, BINS + 1, dtype=torch.float64)).numpy()
    return PairHistogram(
        edges=edges,
        positive=positive_counts[1:].cpu().numpy(),
        negative=negative_counts[1:].cpu().numpy(),
        rounding_bound=scores.largest_fast_error() + 2.0**-20 * float(np.abs(edges).max()),
    )


@torch.no_grad()
def fnmr_at_fmr(
    query_gallery: QueryGallery,
    fmrs: Sequence[float] = (0.1,),
    distance: str = "cosine",
    memory: int = MEMORY,
    histogram: PairHistogram | None = None,
) -> dict[float, float]:
    """False non-match rate at each false match rate, exact over all pairs: {fmr: share of positives}.

    The threshold of a rate is that quantile of the negative pairs' distances (1 - cosine, or squared Euclidean; linear
    between two of them); the figure is the share of positive pairs whose distance is no smaller. Two passes: a
    histogram (`histogram`, where there is one already) says between which scores the threshold lies, and only of the
    pairs there exact scores are kept. Raises InputError for a rate outside 0 to 1, and without pairs of both kinds.
    """
    if not all(0 <= fmr <= 1 for fmr in fmrs):
        raise InputError(f"fmrs={tuple(fmrs)} holds a rate outside 0 to 1")
    if histogram is None:
        histogram = pair_histogram(query_gallery, distance, memory)
    positives = int(histogram.positive.sum())
    negatives = int(histogram.negative.sum())
    if not positives or not negatives:
        raise InputError(f"fnmr@fmr needs pairs of both kinds; {positives} are positive and {negatives} negative")
    # Which negative pair a rate's threshold is, 0 being the closest.
    places = {fmr: (negatives - 1) * fmr for fmr in fmrs}
    tallies = {fmr: Tally(*bracket(histogram, place)) for fmr, place in places.items()}
    # Negatives below all brackets are never looked at again.
    least = min(tally.low for tally in tallies.values())
    scores = Scores(query_gallery, distance)
    for block in pair_blocks(query_gallery, scores, torch.float64, memory):
        negative = block.negative[block.negative >= least]
        for tally in tallies.values():
            tally.add(negative, block.positive, block.weight)
    return {fmr: tally.not_matched(places[fmr]) / positives for fmr, tally in tallies.items()}


def bracket(histogram: PairHistogram, place: float) -> tuple[float, float]:
    """Scores (low, high) with the negative pair at `place` (0 the closest; two where it is a fraction) between them."""
    closer = np.cumsum(histogram.negative[::-1])
    first, last = np.searchsorted(closer, [math.floor(place), math.ceil(place)], side="right")
    edges = histogram.edges[::-1]
    return edges[last + 1] - histogram.rounding_bound, edges[first] + histogram.rounding_bound


class Tally:
    """Pairs in and beyond a bracket of scores: negatives above, positives below, and the exact scores inside.

    Scores inside are held as tensors (2, n): scores above how many pairs have them.
    """

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high
        self.negatives_above = 0
        self.positives_below = 0
        self.negatives_inside = []
        self.positives_inside = []

    def add(self, negative: torch.Tensor, positive: torch.Tensor, weight: int) -> None:
        self.negatives_above += weight * int((negative > self.high).sum())
        self.positives_below += weight * int((positive < self.low).sum())
        self._hold(self.negatives_inside, negative, weight)
        self._hold(self.positives_inside, positive, weight)

    def _hold(self, held: list[torch.Tensor], scores: torch.Tensor, weight: int) -> None:
        inside = scores[(scores >= self.low) & (scores <= self.high)].double()
        held.append(torch.stack([inside, torch.full_like(inside, weight)]))
        # Equal scores are put together before they fill the memory.
        if sum(part.shape[1] for part in held) > MOST_HELD:
            held[:] = [_united(held)]

    def negative_at(self, place: int) -> float:
        """The score of the negative pair at a place, 0 being the closest; it has to lie in the bracket."""
        scores, numbers = _united(self.negatives_inside).flip(1)
        closer = self.negatives_above + numbers.cumsum(0)
        return float(scores[torch.searchsorted(closer, torch.tensor(float(place), dtype=closer.dtype), right=True)])

    def inside(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores in the bracket, rising and each once, (n,), and how many negatives and positives have each."""
        negatives, positives = _united(self.negatives_inside).cpu(), _united(self.positives_inside).cpu()
        scores = torch.cat([negatives[0], positives[0]]).unique()
        counts = []
        for held in (negatives, positives):
            number = torch.zeros_like(scores)
            number[torch.searchsorted(scores, held[0])] = held[1]
            counts.append(number.numpy())
        return scores.numpy(), *counts

    def not_matched(self, place: float) -> int:
        """How many positives are no closer than the negatives' quantile at `place` (0: the closest)."""
        scores, numbers = _united(self.negatives_inside).flip(1)
        closer = self.negatives_above + numbers.cumsum(0)
        index = torch.tensor([math.floor(place), math.ceil(place)], dtype=torch.float64, device=closer.device)
        # The two negatives on both sides of the place, as np.quantile has it.
        near, far = scores[torch.searchsorted(closer, index, right=True)]
        threshold = near + (far - near) * (place - math.floor(place))
        scores, numbers = _united(self.positives_inside)
        return self.positives_below + int(numbers[scores <= threshold].sum())


def _united(held: list[torch.Tensor]) -> torch.Tensor:
    """Scores, ascending and each once, above their numbers: (2, n)."""
    scores, numbers = torch.cat(held, dim=1)
    scores, place = scores.unique(return_inverse=True)
    return torch.stack([scores, torch.zeros_like(scores).index_add_(0, place, numbers)])


class PairBlock(NamedTuple):
    """The pairs of some queries with some gallery items.

    negative (m, n): scores, -infinity where a pair is none of different labels. positive (p,): scores of pairs of one
    label, and positive_labels (p,) which. row_labels (m,), column_labels (n,): the labels of the block's sides, rising.
    weight: how often its pairs count.
    """

    negative: torch.Tensor
    positive: torch.Tensor
    positive_labels: torch.Tensor
    row_labels: torch.Tensor
    column_labels: torch.Tensor
    weight: int


def pair_blocks(query_gallery: QueryGallery, scores: Scores, dtype: torch.dtype, memory: int) -> Iterator[PairBlock]:
    """Scores of all pairs, sorted by label so that most blocks hold negatives only."""
    query_gallery.require_labels()
    query_labels = query_gallery.query_labels
    gallery_labels = query_gallery.gallery_labels
    query_sequences = query_gallery.query_sequences
    gallery_sequences = query_gallery.gallery_sequences
    queries = query_labels.argsort(stable=True)
    gallery = gallery_labels.argsort(stable=True)
    itself = query_gallery.self_positions()
    for block in Products(scores, queries, gallery, dtype, memory, query_gallery.one_against_rest):
        asking = queries[block.rows]
        answering = gallery[block.columns]
        row_labels = query_labels[asking]
        column_labels = gallery_labels[answering]
        # Sorted by label, most blocks have no pair of one label.
        positive = block.scores.new_empty(0)
        positive_labels = row_labels[:0]
        if query_sequences is not None and share_a_code(query_sequences[asking], gallery_sequences[answering]):
            is_same_sequence = query_sequences[asking, None] == gallery_sequences[answering]
            block.scores.masked_fill_(is_same_sequence, -math.inf)
        # Positives are taken out of the block, which leaves its negatives.
        if share_a_code(row_labels, column_labels):
            is_same_label = row_labels[:, None] == column_labels
            is_pair = (itself[asking, None] != answering) & (block.scores > -math.inf)
            is_positive = is_same_label & is_pair
            positive = block.scores[is_positive]
            positive_labels = row_labels[is_positive.nonzero()[:, 0]]
            block.scores.masked_fill_(is_same_label, -math.inf)
        weight = 2 if block.mirrored else 1
        yield PairBlock(block.scores, positive, positive_labels, row_labels, column_labels, weight)
