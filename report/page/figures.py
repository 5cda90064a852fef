"""The page's figures: metrics with their meaning, the lowest categories, the scores of all pairs."""

import numpy as np

from report.page.captions import shortened
from retrieval.metrics.pairs import PairHistogram
from retrieval.metrics.ranking import describe

BARS, BINS = 200, 80  # categories shown; bins of the scores


def metrics_data(overall: dict, definition: str) -> list[dict]:
    """Each metric with its title, its meaning and its value."""
    metrics = []
    for name, value in overall.items():
        if name not in ("queries", "lone_queries"):
            title, meaning = describe(name, definition)
            metrics.append({"name": title, "meaning": meaning, "value": value})
    return metrics


def categories_data(figures: dict[str, dict]) -> dict | None:
    """The lowest categories by the first metric, None without categories."""
    metric = next(iter(figures["overall"]))
    rows = []
    for name, figures_of_one in figures["categories"].items():
        if figures_of_one["queries"]:
            rows.append((name, figures_of_one[metric], figures_of_one["queries"]))
    if not rows:
        return None
    rows.sort(key=lambda row: (row[1], row[0]))
    shown = [[shortened(name), value, queries] for name, value, queries in rows[:BARS]]
    return {"metric": describe(metric)[0], "rows": shown, "total": len(rows), "mean": figures["overall"][metric]}


def histogram_data(histogram: PairHistogram) -> dict | None:
    """Both kinds of pairs in a few wide bins, as densities, and the best threshold; None where there is no pair."""
    counts = np.stack([histogram.positive, histogram.negative])
    used = np.flatnonzero(counts.sum(0))
    if not len(used):
        return None

    # So many narrow bins are put together that BINS suffice; the last one may be narrower.
    first = used[0]
    stop = used[-1] + 1
    step = -(-(stop - first) // BINS)
    starts = np.arange(first, stop, step)
    edges = histogram.edges[np.append(starts, min(starts[-1] + step, counts.shape[1]))]
    totals = counts.sum(1)
    densities = np.add.reduceat(counts, starts, axis=1) / np.diff(edges) / np.maximum(totals, 1)[:, None]

    best = None
    if totals[0]:
        best = dict(zip(("threshold", "f1", "precision", "recall"), histogram.best_threshold()))
    return {"edges": edges.tolist(), "densities": densities.tolist(), "pairs": totals.tolist(), "best": best}
