"""Near-duplicates that should not be: between labels (one of the labels may be wrong), between lists (a leak)."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from retrieval.best_positive import MEMORY
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

MOST = 24


@dataclass(frozen=True)
class Pairs:
    """Pairs of items, closest first.

    left, right (P,) int64: rows of the list, and of the same or the other list. scores (P,) float32: larger is closer.
    floor: the score from which on pairs were taken, -infinity for any. total: how many there are, of which P are held.
    """

    left: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    floor: float
    total: int

    @classmethod
    def closest(cls, left, right, scores, floor, most):
        """The closest of some pairs, equal ones by their rows."""
        order = np.lexsort((right, left, -scores))
        order = order[scores[order] >= floor]
        kept = order[:most]
        return cls(left[kept], right[kept], scores[kept], floor, len(order))


def median_positive(histogram):
    """The score that half of a PairHistogram's positive pairs reach; -infinity where there is no positive pair.

    What is closer than this looks more alike than two items of one label usually do.
    """
    closer = np.cumsum(histogram.positive[::-1])
    if not closer[-1]:
        return -math.inf
    return float(histogram.edges[:-1][::-1][np.searchsorted(closer, closer[-1] / 2)])


def closest_across_labels(results, query_rows, labels, floor=-math.inf, distance="cosine", most=MOST):
    """The closest wrong items that any query found, any two labels once: Pairs of rows of the list.

    results: as the search gives them, not ranked anew; a wrong item that stands behind K others is not in them.
    query_rows (Q,): the queries' rows. labels (N,): integers or strings. Raises InputError where labels are unknown.
    """
    query, place = (~results.hits & (results.padded_ids >= 0)).nonzero(as_tuple=True)
    found = results.padded_ids[query, place].cpu().numpy()
    distances = results.padded_distances[query, place].cpu().numpy()
    asked = np.asarray(query_rows)[query.cpu().numpy()]
    low, high = np.minimum(asked, found), np.maximum(asked, found)
    closest = np.lexsort((high, low, distances))
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    both = np.sort(np.stack([codes[low], codes[high]]), axis=0)[:, closest]
    once = closest[np.unique(both, axis=1, return_index=True)[1]]
    scores = 1 - distances if distance == "cosine" else -distances
    return Pairs.closest(low[once], high[once], scores[once], floor, most)


def closest_across_lists(embeddings, others, floor=-math.inf, distance="cosine", most=MOST, memory=MEMORY):
    """Each row's nearest row in another list, the closest of these: Pairs of a row here and a row there.

    embeddings (N, D), others (M, D). Raises InputError as Task.apart does.
    """
    task = QueryGallery.apart(torch.as_tensor(embeddings), torch.as_tensor(others))
    rows, scores = search(task, 1, distance, memory)
    left = np.arange(len(rows))
    return Pairs.closest(left, rows[:, 0].cpu().numpy(), scores[:, 0].cpu().numpy(), floor, most)
