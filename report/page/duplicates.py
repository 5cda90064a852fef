"""Near-duplicates that should not be: between labels (one of the labels may be wrong), between lists (a leak)."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from retrieval.metrics.pairs import PairHistogram
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults
from retrieval.topk import search

MOST = 24


@dataclass(frozen=True)
class LookAlikes:
    """Pairs of items that are close, closest first.

    left, right (P,) int64: rows of the list, and of the same or the other list. scores (P,) float32: larger is closer.
    floor: the score from which on pairs were taken, -infinity for any. total: how many there are, of which P are held.
    """

    left: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    floor: float
    total: int

    @classmethod
    def closest(cls, left: np.ndarray, right: np.ndarray, scores: np.ndarray, floor: float, most: int) -> "LookAlikes":
        """The closest of some pairs, equal ones by their rows."""
        order = np.lexsort((right, left, -scores))
        order = order[scores[order] >= floor]
        kept = order[:most]
        return cls(left[kept], right[kept], scores[kept], floor, len(order))


def median_positive(histogram: PairHistogram) -> float:
    """The score that half of the positive pairs reach; -infinity where there is no positive pair.

    What is closer than this looks more alike than two items of one label usually do.
    """
    closer = np.cumsum(histogram.positive[::-1])
    if not closer[-1]:
        return -math.inf
    return float(histogram.edges[:-1][::-1][np.searchsorted(closer, closer[-1] / 2)])


def closest_across_labels(
    results: RetrievalResults,
    query_rows: np.ndarray,
    labels: np.ndarray,
    floor: float = -math.inf,
    distance: str = "cosine",
    most: int = MOST,
) -> LookAlikes:
    """The closest wrong items that any query found, any two labels once: pairs of rows of the list.

    results: as the search gives them, not ranked anew; a wrong item that stands behind K others is not in them.
    query_rows (Q,): the queries' rows. labels (N,): integers or strings. Raises InputError where labels are unknown.
    """
    wrong = ~results.hits & (results.padded_ids >= 0)
    queries, ranks = wrong.nonzero(as_tuple=True)
    items = results.padded_ids[queries, ranks].cpu().numpy()
    distances = results.padded_distances[queries, ranks].cpu().numpy()

    # Two items may each have found the other; the lower row comes first then.
    askers = np.asarray(query_rows)[queries.cpu().numpy()]
    low = np.minimum(askers, items)
    high = np.maximum(askers, items)

    # Of the pairs of any two labels the closest stays: np.unique gives the first of equal ones.
    closest = np.lexsort((high, low, distances))
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    label_pairs = np.sort(np.stack([codes[low], codes[high]]), axis=0)[:, closest]
    once = closest[np.unique(label_pairs, axis=1, return_index=True)[1]]
    scores = -distances
    if distance == "cosine":
        scores = 1 - distances
    return LookAlikes.closest(low[once], high[once], scores[once], floor, most)


def closest_across_lists(
    embeddings: torch.Tensor | np.ndarray,
    others: torch.Tensor | np.ndarray,
    floor: float = -math.inf,
    distance: str = "cosine",
    most: int = MOST,
) -> LookAlikes:
    """Each row's nearest row in another list, the closest of these: pairs of a row here and a row there.

    embeddings (N, D), others (M, D). Raises InputError as QueryGallery.apart does.
    """
    query_gallery = QueryGallery.apart(torch.as_tensor(embeddings), torch.as_tensor(others))
    rows, scores = search(query_gallery, 1, distance)
    left = np.arange(len(rows))
    return LookAlikes.closest(left, rows[:, 0].cpu().numpy(), scores[:, 0].cpu().numpy(), floor, most)
