"""Figures over all pairs of a query and a gallery item, streamed: no pair is left out and none is held.

A pair is positive where both have one label. A query makes no pair with itself nor with items of its sequence; where
queries and gallery are the same rows, each pair counts once in both directions, which changes no share.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from retrieval.best_positive import MEMORY
from retrieval.blocks import overlap, products
from retrieval.scores import Scores

BINS = 2**16
MOST_HELD = 2**22  # exact scores held before equal ones are put together


@dataclass(frozen=True)
class PairHistogram:
    """How many positive and negative pairs have a score in each of many narrow bins.

    edges (BINS + 1,) float64: rising scores, larger being closer (retrieval/space.py). positive, negative (BINS,)
    int64. doubt: by how much a score may be off in sorting it into a bin.
    """

    edges: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    doubt: float

    def curve(self):
        """(precision, recall, edge), each (n,): calling positive what scores an edge or more, from the highest down."""
        right, wrong = (np.cumsum(counts[::-1]) for counts in (self.positive, self.negative))
        called = right + wrong
        some = called > 0
        return right[some] / called[some], right[some] / max(1, right[-1]), self.edges[:-1][::-1][some]

    def pr_auc(self):
        """Area under the precision-recall curve by trapezoids, as EasyDL's pr_auc. Raises without a positive pair."""
        self._require()
        precision, recall, _ = self.curve()
        precision, recall = np.r_[1.0, precision], np.r_[0.0, recall]
        return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())

    def average_precision(self):
        """Area under the precision-recall curve by steps, as the literature has it."""
        self._require()
        precision, recall, _ = self.curve()
        return float((precision * np.diff(np.r_[0.0, recall])).sum())

    def best_threshold(self):
        """(threshold, F1, precision, recall) where calling positive what scores so much has the best F1."""
        self._require()
        precision, recall, edges = self.curve()
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        best = int(f1.argmax())
        return float(edges[best]), float(f1[best]), float(precision[best]), float(recall[best])

    def _require(self):
        if not self.positive.sum():
            raise InputError("no two items have the same label, so there is no positive pair to speak of")


@torch.no_grad()
def pair_histogram(task, distance="cosine", memory=MEMORY):
    """The PairHistogram of a Task. Raises InputError where labels are unknown."""
    space = Scores(task, distance)
    low, high = (-2.0, 0.0) if space.euclidean else (-1.0, 1.0)
    counts = torch.zeros((2, BINS + 1), dtype=torch.int64, device=task.device)
    for negative, positive, weight in _scores(task, space, torch.float32, memory):
        for kind, scores in enumerate((positive, negative)):
            bins = scores.sub_(low).mul_(BINS / (high - low)).clamp_(-1, BINS - 1).floor_().int().add_(1)
            counts[kind] += weight * bins.flatten().bincount(minlength=BINS + 1)
    edges = space.slow_units(torch.linspace(low, high, BINS + 1, dtype=torch.float64)).numpy()
    positive, negative = counts[:, 1:].cpu().numpy()
    return PairHistogram(edges, positive, negative, space.doubt() + 2.0**-20 * float(np.abs(edges).max()))


@torch.no_grad()
def fnmr_at_fmr(task, fmrs=(0.1,), distance="cosine", memory=MEMORY, histogram=None):
    """False non-match rate at each false match rate, exact over all pairs: {fmr: share of positives}.

    The threshold of a rate is that quantile of the negative pairs' distances (1 - cosine, or squared Euclidean; linear
    between two of them); the figure is the share of positive pairs whose distance is no smaller. Two passes: a
    histogram (`histogram`, where there is one already) says between which scores the threshold lies, and only of the
    pairs there exact scores are kept. Raises InputError for a rate outside 0 to 1, and without pairs of both kinds.
    """
    if not all(0 <= fmr <= 1 for fmr in fmrs):
        raise InputError(f"fmrs={tuple(fmrs)} holds a rate outside 0 to 1")
    histogram = histogram or pair_histogram(task, distance, memory)
    positives, negatives = int(histogram.positive.sum()), int(histogram.negative.sum())
    if not positives or not negatives:
        raise InputError(f"fnmr@fmr needs pairs of both kinds; {positives} are positive and {negatives} negative")
    tallies = {fmr: _Tally(*_bracket(histogram, (negatives - 1) * fmr)) for fmr in fmrs}
    least = min(tally.low for tally in tallies.values())
    for negative, positive, weight in _scores(task, Scores(task, distance), torch.float64, memory):
        negative = negative[negative >= least]
        for tally in tallies.values():
            tally.add(negative, positive, weight)
    return {fmr: tally.not_matched((negatives - 1) * fmr) / positives for fmr, tally in tallies.items()}


def _bracket(histogram, place):
    """Scores (low, high) with the negative pair at `place` (0 the closest; two where it is a fraction) between them."""
    closer = np.cumsum(histogram.negative[::-1])
    first, last = np.searchsorted(closer, [math.floor(place), math.ceil(place)], side="right")
    low, high = histogram.edges[::-1][last + 1], histogram.edges[::-1][first]
    return low - histogram.doubt, high + histogram.doubt


class _Tally:
    """Pairs in and beyond a bracket of scores: negatives above, positives below, and the exact scores inside."""

    def __init__(self, low, high):
        self.low, self.high = low, high
        self.negatives_above = self.positives_below = 0
        self.inside = [[], []]

    def add(self, negative, positive, weight):
        self.negatives_above += weight * int((negative > self.high).sum())
        self.positives_below += weight * int((positive < self.low).sum())
        for held, scores in zip(self.inside, (negative, positive)):
            scores = scores[(scores >= self.low) & (scores <= self.high)]
            held.append(torch.stack([scores.double(), torch.full_like(scores, weight, dtype=torch.float64)]))
            if sum(part.shape[1] for part in held) > MOST_HELD:
                held[:] = [_united(held)]

    def not_matched(self, place):
        """How many positives are no closer than the negatives' quantile at `place` (0: the closest)."""
        scores, numbers = _united(self.inside[0]).flip(1)
        closer = self.negatives_above + numbers.cumsum(0)
        index = torch.tensor([math.floor(place), math.ceil(place)], dtype=torch.float64, device=closer.device)
        near, far = scores[torch.searchsorted(closer, index, right=True)]
        threshold = near + (far - near) * (place - math.floor(place))
        scores, numbers = _united(self.inside[1])
        return self.positives_below + int(numbers[scores <= threshold].sum())


def _united(parts):
    """Scores, ascending and each once, above their numbers: (2, n)."""
    scores, numbers = torch.cat(parts, dim=1)
    scores, place = scores.unique(return_inverse=True)
    return torch.stack([scores, torch.zeros_like(scores).index_add_(0, place, numbers)])


def _scores(task, space, dtype, memory):
    """Scores of all pairs, sorted by label so that most blocks hold negatives only.

    Yields (negative (m, n), -infinity where a pair is none; positive (p,); how often these pairs count).
    """
    task.positives()
    queries, gallery = task.query_labels.argsort(stable=True), task.gallery_labels.argsort(stable=True)
    own = task.own_places()
    for block in products(space, queries, gallery, dtype, memory, task.one_against_rest):
        asking, found, positive = queries[block.rows], gallery[block.columns], block.scores.new_empty(0)
        if task.query_sequences is not None and overlap(task.query_sequences[asking], task.gallery_sequences[found]):
            together = task.query_sequences[asking, None] == task.gallery_sequences[found]
            block.scores.masked_fill_(together, -math.inf)
        if overlap(task.query_labels[asking], task.gallery_labels[found]):
            same = task.query_labels[asking, None] == task.gallery_labels[found]
            positive = block.scores[same & (own[asking, None] != found) & (block.scores > -math.inf)]
            block.scores.masked_fill_(same, -math.inf)
        yield block.scores, positive, 1 + block.twice
