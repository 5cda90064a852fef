"""A report in one HTML file: figures, queries, scores, a map, look-alikes. Arrays in, a file out.

Its size does not grow with N: constants here, in album.py and in map.py say how many of everything are shown,
and the page says where there are more.
"""

from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from report.page.album import Album, Images, shortened
from report.page.duplicates import Pairs
from report.page.map import map_data
from report.page.page import write_page
from retrieval.metrics.pairs import PairHistogram
from retrieval.metrics.ranking import describe
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults
from retrieval.scores import Scores

QUERIES, FOUND, MISSED = 10, 8, 3  # queries of a kind; items shown of each: found, and right but not among them
BARS, BINS = 200, 80  # categories shown; bins of the scores


@dataclass(frozen=True)
class Report:
    """What the page shows of N images, of which Q ask.

    title: one line; facts: {name: value}, such as list, model, versions. figures: as retrieval.measure.summary gives
    them; its first metric is the categories'. images: the list. embeddings: (N, D). query_rows: (Q,) the rows that ask.
    results: what each query found, as the search gives it; its ids are rows of the list. query_values (Q,): the metric
    `query_metric` of each query, by which they are the worst and the best. histogram: scores of all pairs. distance: as
    retrieval.search takes it; definition: whose the figures are, as retrieval.metrics takes it. projection: pca or
    umap. label_pairs: near-duplicates of different labels, from duplicates.closest_across_labels. leaks: those in
    another list, from duplicates.closest_across_lists, with that list: `others`.
    """

    title: str
    facts: dict
    figures: dict
    images: Images
    embeddings: torch.Tensor
    query_rows: np.ndarray
    results: RetrievalResults
    query_values: np.ndarray
    query_metric: str
    histogram: PairHistogram
    distance: str = "cosine"
    definition: str = "standard"
    projection: str = "pca"
    label_pairs: Pairs | None = None
    leaks: Pairs | None = None
    others: Images | None = None


def write_report(path, report):
    """Write a Report as one HTML file, whole or not at all.

    Raises InputError where the file cannot be written, an image cannot be read, lengths differ, labels are unknown, or
    umap-learn is missing.
    """
    _check(report)
    album = Album()
    data = {
        "title": report.title,
        "facts": [[str(name), str(value)] for name, value in _facts(report).items()],
        "metrics": _metrics(report.figures["overall"], report.definition),
        "counts": {name: report.figures["overall"][name] for name in ("queries", "lone_queries")},
        "categories": _categories(report.figures),
        "score": "cosine similarity" if report.distance == "cosine" else "squared distance with a minus sign",
        "queries": _queries(report, album),
        "histogram": _histogram(report.histogram),
        "map": map_data(report.images, report.embeddings, _nearest(report), report.projection, report.distance),
        "label_pairs": _pairs(report.label_pairs, report.images, report.images, album),
        "leaks": _pairs(report.leaks, report.images, report.others, album),
        "lists": [report.images.name, report.others.name if report.others else None],
    }
    write_page(path, data | {"items": album.entries()})


def _check(report):
    rows, queries = len(report.embeddings), len(report.query_rows)
    lengths = {"paths": len(report.images.paths), "labels": len(report.images.labels)}
    if report.images.categories is not None:
        lengths["categories"] = len(report.images.categories)
    for name, length in lengths.items():
        if length != rows:
            raise InputError(f"a report of {rows} embeddings has {length} {name}")
    for name, length in (("results", len(report.results)), ("query values", len(report.query_values))):
        if length != queries:
            raise InputError(f"a report of {queries} queries has {length} {name}")
    if report.leaks is not None and report.others is None:
        raise InputError("leaks into another list can be shown with that list only: others is missing")


def _facts(report):
    folder = {"folder": report.images.folder} if report.images.folder else {}
    return report.facts | folder


def _metrics(overall, definition):
    described = {name: describe(name, definition) for name in overall if name not in ("queries", "lone_queries")}
    return [{"name": title, "meaning": text, "value": overall[name]} for name, (title, text) in described.items()]


def _categories(figures):
    """The lowest categories by the first metric, None without categories."""
    metric = next(iter(figures["overall"]))
    rows = [(name, one[metric], one["queries"]) for name, one in figures["categories"].items() if one["queries"]]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: (row[1], row[0]))
    shown = [[shortened(name), value, queries] for name, value, queries in rows[:BARS]]
    return {"metric": describe(metric)[0], "rows": shown, "total": len(rows), "mean": figures["overall"][metric]}


def _queries(report, album):
    """Worst, best and random queries, each with what it found; the first two one query a label."""
    results, values = report.results, np.asarray(report.query_values, dtype=np.float64)
    labels = np.asarray(report.images.labels)[report.query_rows]
    worst = worst_queries(results, values)
    positives = results.positives.cpu().numpy()[worst]
    best = worst[np.lexsort((worst, -_nearest_wrong(results)[worst], -positives, -values[worst]))]
    chance = np.random.default_rng(0).permutation(len(values))[:QUERIES]
    kinds = {"Worst": _one_a_label(worst, labels), "Best": _one_a_label(best, labels), "Random": chance}
    space = Scores(QueryGallery.of(report.embeddings), report.distance)
    title, _ = describe(report.query_metric)
    return {
        "metric": title,
        "kinds": [
            [kind, [_query(report, query, values[query], space, album) for query in chosen.tolist()]]
            for kind, chosen in kinds.items()
        ],
    }


def worst_queries(results, values):
    """Places of the queries that have something to find, by rising values (Q,), the surest mistakes first."""
    askers = np.flatnonzero(results.positives.cpu().numpy())
    return askers[np.lexsort((askers, _nearest_wrong(results)[askers], values[askers]))]


def _nearest_wrong(results):
    """(Q,) the distance of each query's nearest wrong item."""
    wrong = ~results.hits & (results.padded_ids >= 0)
    return results.padded_distances.masked_fill(~wrong, torch.inf).amin(1).cpu().numpy()


def _one_a_label(queries, labels):
    """The first queries of different labels, in their order."""
    first = np.unique(labels[queries], return_index=True)[1]
    return queries[np.sort(first)][:QUERIES]


def _query(report, query, value, space, album):
    """A query, the items it found, and the closest right ones that are not among them."""
    row = int(report.query_rows[query])
    found = report.results.padded_ids[query, :FOUND].cpu()
    hits = report.results.hits[query, :FOUND].cpu()[found >= 0].tolist()
    found = found[found >= 0]
    right = report.results.relevance.rows(query).cpu()
    missed = right[~torch.isin(right, found)]
    missed_scores = _scores(space, row, missed)
    closest = missed_scores.argsort(descending=True, stable=True)[:MISSED]
    return {
        "item": album.place(report.images, row),
        "value": float(value),
        "positives": len(right),
        "found": _with_scores(album, report.images, found, _scores(space, row, found), hits),
        "missed": _with_scores(album, report.images, missed[closest], missed_scores[closest]),
        "missed_total": len(missed),
    }


def _scores(space, row, items):
    """Scores (n,) float32 of one row with some items, whatever put these in order."""
    items = items.to(space.tables["query"].device)
    return space.exact_pairs(torch.full_like(items, row), items).cpu()


def _with_scores(album, images, rows, scores, *columns):
    places = [album.place(images, row) for row in rows.tolist()]
    return [list(one) for one in zip(places, [round(score, 4) for score in scores.tolist()], *columns)]


def _histogram(histogram):
    """Both kinds of pairs in a few wide bins, as densities, and the best threshold; None where there is no pair."""
    counts = np.stack([histogram.positive, histogram.negative])
    used = np.flatnonzero(counts.sum(0))
    if not len(used):
        return None
    step = -(-(used[-1] + 1 - used[0]) // BINS)
    starts = np.arange(used[0], used[-1] + 1, step)
    edges = histogram.edges[np.append(starts, min(starts[-1] + step, counts.shape[1]))]
    totals = counts.sum(1)
    densities = np.add.reduceat(counts, starts, axis=1) / np.diff(edges) / np.maximum(totals, 1)[:, None]
    data = {"edges": edges.tolist(), "densities": densities.tolist(), "pairs": totals.tolist(), "best": None}
    if totals[0]:
        data["best"] = dict(zip(("threshold", "f1", "precision", "recall"), histogram.best_threshold()))
    return data


def _nearest(report):
    """(N,) whether each row's nearest item is right: 0 yes, 1 no, 2 it did not ask or found nothing."""
    codes = np.full(len(report.images.labels), 2)
    some = report.results.counts.cpu().numpy() > 0
    codes[np.asarray(report.query_rows)[some]] = np.where(report.results.hits[:, 0].cpu().numpy()[some], 0, 1)
    return codes


def _pairs(pairs, images, others, album):
    if pairs is None:
        return None
    places = [
        [album.place(images, left), album.place(others, right), round(score, 4)]
        for left, right, score in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.scores.tolist())
    ]
    return {"pairs": places, "total": pairs.total, "floor": pairs.floor if np.isfinite(pairs.floor) else None}
