"""How likely a row is wrong by a score, of which only the wrong ones' distribution is known.

The two groups model (Efron et al., 2001, "Empirical Bayes analysis of a microarray experiment", JASA 96): scores are a
mixture f = share f0 + (1 - share) f1, of which f0, that of wrong rows, can be drawn from. Then the probability that a
row with the score s is wrong is share f0(s) / f(s); the share is bounded from where right rows hardly come (Storey,
2002, "A direct approach to false discovery rates", JRSS B 64).
"""

import numpy as np

BINS = 50  # of scores, each with as many
SLACK = 1.5  # standard deviations
HALF_A_ROW = 0.5
TINY = 1e-9  # a bin that nothing was seen in
LEVELS = range(30, 91, 5)  # per cent of the wrong rows, at whose scores the share is looked for


def probability_wrong(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, float]:
    """(probability (N,) that each row is wrong, never rising with its score; the share of wrong rows, at most about).

    scores: (N,), high for right rows. wrong: (M,), scores as wrong rows have them. Both not empty.
    """
    share = 1.0
    for level in (percent / 100 for percent in LEVELS):
        # Of several bounds the least is taken, so that each gives way by its own deviation.
        below = int(np.sum(scores <= np.quantile(wrong, level)))
        share = min(share, (below + SLACK * np.sqrt(below + 1)) / (level * len(scores)))
    both = np.concatenate([scores, wrong])
    # A wrong row of those that were drawn weighs so that both groups weigh the same.
    weight = len(scores) / len(wrong)
    edges = np.unique(np.quantile(both, np.linspace(0, 1, min(BINS, len(scores) // 4 + 1) + 1)))
    bins = len(edges) + 1
    place = np.searchsorted(edges, scores, side="right")
    seen = np.bincount(place, minlength=bins).astype(float)
    drawn = weight * np.bincount(np.searchsorted(edges, wrong, side="right"), minlength=bins)
    # Bins are pooled until their ratios fall; to the seen comes half a row, spread as the wrong ones are.
    seen += drawn * (HALF_A_ROW / drawn.sum())
    ratio = -steady(-drawn / np.maximum(seen, TINY), np.maximum(seen, TINY))
    return np.clip(share * ratio, 0, 1)[place], share


def steady(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The never falling (n,) that is nearest to `values` by weighted squares: pool adjacent violators (Ayer et al.,
    1955, Annals of Mathematical Statistics 26)."""
    # Each pool is (mean, weight, length); a pool that is not above the one before is put into it.
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist()):
        pool = (value, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            mean, mass, length = pools.pop()
            total = mass + pool[1]
            pool = ((mean * mass + pool[0] * pool[1]) / max(total, 1e-300), total, length + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(length, mean) for mean, _, length in pools])


def probability_right(margins: np.ndarray, is_right: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often a guess of such a margin is right, (n,) for `wanted` margins, never falling with it.

    margins (m,), is_right (m,) bool: of guesses that can be judged. Each bin has one wrong guess more.
    """
    edges = np.unique(np.quantile(margins, np.linspace(0, 1, min(BINS, len(margins) // 10 + 1) + 1)))[1:-1]
    place = np.searchsorted(edges, margins, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1) + 1.0
    right = np.bincount(place, is_right.astype(float), minlength=len(edges) + 1)
    return steady(right / counts, counts)[np.searchsorted(edges, wanted, side="right")]
