"""From what a search finds to what is answered: one item of each label, unlike ones first, one answer to several
queries. Arrays in, arrays out.
"""

import numpy as np

POOL, POOL_FACTOR = 100, 10  # items that a diverse answer is chosen among: so many, or so many times k


def first_of_each(groups: np.ndarray, k: int) -> list[np.ndarray]:
    """For each query the places of the first item of each group, k of them at the most, in their order.

    groups: (Q, n) int64, the group of each item that was found, nearest first.
    """
    places = []
    for row in groups:
        _, first = np.unique(row, return_index=True)
        places.append(np.sort(first)[:k])
    return places


def pool_of(k: int) -> int:
    """How many items to find where k that are unlike each other are wanted: of many items few are diverse."""
    return max(POOL, POOL_FACTOR * k)


def diverse_order(scores: np.ndarray, units: np.ndarray, k: int, diversity: float) -> np.ndarray:
    """The places (k,) of items that are like the query and unlike each other (MMR).

    The next item is always that of the greatest (1 - diversity) x its score - diversity x its greatest cosine with the
    items before it; of equal ones the first (Carbonell and Goldstein, SIGIR 1998, with lambda = 1 - diversity). scores
    (n,); units (n, D): the items' embeddings, of length one.
    """
    chosen = []
    is_left = np.ones(len(scores), dtype=bool)
    # No item is like what is not there yet: the first is the nearest.
    closest = np.zeros(len(scores))
    for _ in range(min(k, len(scores))):
        gains = (1 - diversity) * scores - diversity * closest
        place = int(np.where(is_left, gains, -np.inf).argmax())
        is_left[place] = False
        likeness = units @ units[place]
        closest = likeness if not chosen else np.maximum(closest, likeness)
        chosen.append(place)
    return np.array(chosen, dtype=np.int64)


def greatest_scores(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids (k,), scores (k,)) of the items with the greatest score with any of m queries, equal ones by the smaller id.

    ids, scores: (m, k), what each of them found; so no item is missed.
    """
    order = np.lexsort((ids.ravel(), -scores.ravel().astype(np.float64)))
    sorted_ids = ids.ravel()[order]
    _, first = np.unique(sorted_ids, return_index=True)
    places = order[np.sort(first)[:k]]
    return ids.ravel()[places], scores.ravel()[places]
