"""Rows that are far from everything, their own label included."""

import numpy as np
import torch

from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

NEAREST = 5  # rows, as the distance to the k-th in Ramaswamy, Rastogi and Shim (SIGMOD 2000), their mean for steadiness
# Deviations from the median by the median absolute deviation: the modified z-score, with what Iglewicz and Hoaglin
# (1993) advise of it.
FAR = 3.5
MAD_OF_NORMAL = 1.4826
FEWEST = 40


def outliers(embeddings: np.ndarray, own_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows that are far from everything, farthest first; for each row (N,) its deviations below the usual).

    embeddings: (N, D) of length 1, not centred: what the network does not know lies near the middle. own_scores: (N,)
    mean cosines with the own label, NaN for none. A row that is as close to its own label as most are is no outlier.
    """
    count = len(embeddings)
    if count < FEWEST:
        return np.empty(0, np.int64), np.zeros(count)
    _, cosines = search(QueryGallery.of(torch.from_numpy(embeddings)), NEAREST)
    nearness = cosines.numpy().astype(np.float64).mean(1)
    middle = np.median(nearness)
    spread = MAD_OF_NORMAL * np.median(np.abs(nearness - middle))
    deviations = (middle - nearness) / max(spread, 1e-12)
    is_strange = np.isnan(own_scores) | (own_scores < np.nanmedian(own_scores))
    rows = np.flatnonzero((deviations > FAR) & is_strange)
    return rows[np.argsort(-deviations[rows], kind="stable")], deviations
