"""Which queries a person is shown, and the picture of them with what they found."""

from pathlib import Path

import numpy as np
import torch

from data.records import Records
from report.neighbours import Neighbour, neighbour_sheet
from report.thumbnails import load_thumbnail
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

SHOWN = 5  # nearest items of each query in a picture


def evenly_spaced(queries: int, most: int) -> np.ndarray:
    """At most `most` of so many queries, evenly spaced: the same ones for every model of the same list."""
    return np.linspace(0, queries - 1, min(most, queries), dtype=int)


def worst_queries(results: RetrievalResults, values: np.ndarray) -> np.ndarray:
    """The queries that have something to find, by rising values (Q,), the surest mistakes first."""
    with_positives = np.flatnonzero(results.positives.cpu().numpy())
    order = np.lexsort((with_positives, nearest_wrong(results)[with_positives], values[with_positives]))
    return with_positives[order]


def nearest_wrong(results: RetrievalResults) -> np.ndarray:
    """(Q,) the distance of each query's nearest wrong item, infinite where it found none."""
    wrong = ~results.hits & (results.padded_ids >= 0)
    return results.padded_distances.masked_fill(~wrong, torch.inf).amin(1).cpu().numpy()


def draw_queries(
    records: Records,
    query_gallery: QueryGallery,
    queries: np.ndarray,
    results: RetrievalResults | None = None,
    path: str | Path | None = None,
    distance: str = "cosine",
) -> np.ndarray:
    """A sheet of some queries (M,) with their five nearest, uint8 (H, W, 3), written to `path` (.png) where given.

    results: what all queries found by `distance`; None searches for these queries alone, which then have to ascend.
    """
    query_rows = query_gallery.query_rows[queries].tolist()
    results, results_rows = found_by(query_gallery, queries, results, distance)

    rows = []
    captions = []
    for query_row, results_row in zip(query_rows, results_rows):
        rows.append((load_thumbnail(records, query_row), _neighbours(records, results, results_row, distance)))
        captions.append(records.label_text(query_row))
    return neighbour_sheet(rows, path, captions=captions)


def found_by(
    query_gallery: QueryGallery, queries: np.ndarray, results: RetrievalResults | None, distance: str
) -> tuple[RetrievalResults, list[int]]:
    """What some queries (M,) found, and in which rows of it each one's is; as draw_queries takes and makes it."""
    if results is not None:
        return results, queries.tolist()
    asked = query_gallery.query_slice(torch.from_numpy(queries))
    return RetrievalResults.from_query_gallery(asked, SHOWN, distance), list(range(len(queries)))


def _neighbours(records: Records, results: RetrievalResults, query: int, distance: str) -> list[Neighbour]:
    """The nearest items of one query with their images; fewer where it found fewer."""
    items = results.padded_ids[query, :SHOWN].tolist()
    hits = results.hits[query, :SHOWN].tolist()
    distances = results.padded_distances[query, :SHOWN].tolist()
    highest = 0.0  # the score of an item that lies where the query does
    if distance == "cosine":
        highest = 1.0
    neighbours = []
    for item, is_right, item_distance in zip(items, hits, distances):
        if item >= 0:
            neighbours.append(Neighbour(load_thumbnail(records, item), is_right, highest - item_distance))
    return neighbours
