"""The page's examples: the worst, the best and some random queries, with what they found and what they missed."""

import numpy as np
import torch

from report.page.album import Album
from report.page.content import PageContent
from report.queries import nearest_wrong, worst_queries
from retrieval.metrics.ranking import describe
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores

QUERIES = 10  # of each kind
FOUND, MISSED = 8, 3  # items shown of each query: found, and right but not among them


def examples_data(content: PageContent, album: Album) -> dict:
    """Worst, best and random queries as plain JSON; of the first two kinds one query a label.

    The images that are shown are put into the album, and where the network looked, if that can be told.
    """
    results = content.results
    values = np.asarray(content.query_values, dtype=np.float64)
    worst = worst_queries(results, values)
    positives = results.positives.cpu().numpy()[worst]
    # Among equals those come first that had most to find, and whose nearest wrong item is far.
    best = worst[np.lexsort((worst, -nearest_wrong(results)[worst], -positives, -values[worst]))]
    labels = content.records.vocabulary.codes[content.query_rows]
    kinds = {
        "Worst": _one_per_label(worst, labels),
        "Best": _one_per_label(best, labels),
        "Random": np.random.default_rng(0).permutation(len(values))[:QUERIES],
    }

    scores = Scores(QueryGallery.of(content.embeddings), content.distance)
    shown = []
    for kind, queries in kinds.items():
        shown.append([kind, [_example(content, query, scores, album) for query in queries.tolist()]])
    if content.look is not None:
        _add_looks(content, [queries.tolist() for queries in kinds.values()], [rows for _, rows in shown], album)
    title, _ = describe(content.query_metric)
    return {"metric": title, "kinds": shown}


def _one_per_label(queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first queries of different labels, in their order."""
    first = np.unique(labels[queries], return_index=True)[1]
    return queries[np.sort(first)][:QUERIES]


def _example(content: PageContent, query: int, scores: Scores, album: Album) -> dict:
    """A query, the items it found, and the closest right ones that are not among them."""
    records, results = content.records, content.results
    row = int(content.query_rows[query])
    device = content.embeddings.device
    items = results.padded_ids[query, :FOUND].cpu()
    hits = results.hits[query, :FOUND].cpu()[items >= 0].tolist()
    items = items[items >= 0]
    right = results.relevance.rows(query).cpu()
    missed = right[~torch.isin(right, items)]
    item_scores = _scores_of(scores, row, items.to(device))
    missed_scores = _scores_of(scores, row, missed.to(device))
    closest = missed_scores.argsort(descending=True, stable=True)[:MISSED]

    # The album numbers images in the order in which they are asked for.
    number = album.number(records, row)
    found_shown = []
    for item, score, is_right in zip(items.tolist(), item_scores.tolist(), hits):
        found_shown.append([album.number(records, item), round(score, 4), is_right])
    missed_shown = []
    for item, score in zip(missed[closest].tolist(), missed_scores[closest].tolist()):
        missed_shown.append([album.number(records, item), round(score, 4)])
    return {
        "item": number,
        "value": float(content.query_values[query]),
        "positives": len(right),
        "found": found_shown,
        "missed": missed_shown,
        "missed_total": len(missed),
    }


def _add_looks(content: PageContent, queries: list[list[int]], examples: list[list[dict]], album: Album) -> None:
    """To each example that found something where the network looked, in the query and in its best hit."""
    pairs = []
    with_hit = []
    for numbers, rows in zip(queries, examples):
        for query, example in zip(numbers, rows):
            if example["found"]:
                pairs.append((int(content.query_rows[query]), int(content.results.padded_ids[query, 0])))
                with_hit.append(example)
    for example, pair, looks in zip(with_hit, pairs, content.look(pairs)):
        example["looks"] = [album.look_number(content.records, row, look) for row, look in zip(pair, looks)]


def _scores_of(scores: Scores, row: int, items: torch.Tensor) -> torch.Tensor:
    """Scores (n,) float32 of one row with some items, whatever put these in order."""
    return scores.exact_pairs(torch.full_like(items, row), items).cpu()
