"""Queries with what they found, as a figure of matplotlib."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compat.oml.const import BLACK, BLUE, GRAY, GREEN, RED
from core.packages import needed
from retrieval.results import RetrievalResults

Figure = Any  # matplotlib's, which is an extra package
Draw = Callable[[int, tuple[int, int, int]], np.ndarray]
WIDTH = 16  # inches


def draw_results(
    results: RetrievalResults,
    query_ids: Sequence[int],
    draw_query: Draw,
    draw_item: Draw,
    most_items: int,
    most_right: int,
    show: bool,
) -> Figure:
    """A row for each query: itself (blue), nearest items (green right, red wrong, black unknown), right ones (grey).

    draw_query, draw_item: a picture of a number, framed in a colour.
    """
    pyplot = needed("matplotlib.pyplot", "visualize()", "oml")
    is_known = results.relevance is not None
    most_items = min(most_items, max(int(results.counts[query]) for query in query_ids))
    most_right = most_right if is_known else 0
    columns = 1 + most_items + most_right
    rows = len(query_ids)
    figure, grid = pyplot.subplots(rows, columns, squeeze=False, figsize=(WIDTH, WIDTH / columns * rows))
    for axes in grid.flat:
        axes.axis("off")
    for axes, query in zip(grid, query_ids):
        _show(axes[0], draw_query(query, BLUE), f"Query #{query}")
        found = results.retrieved_ids[query][:most_items].tolist()
        for place, item in enumerate(found):
            color = BLACK
            if is_known:
                color = GREEN if results.hits[query, place] else RED
            distance = results.padded_distances[query, place].item()
            _show(axes[1 + place], draw_item(item, color), f"Gallery #{item} - {distance:.3f}")
        if is_known:
            right = results.relevance.rows(query)[:most_right].tolist()
            for place, item in enumerate(right, start=1 + most_items):
                _show(axes[place], draw_item(item, GRAY), "GT")
    figure.tight_layout()
    # On a machine without a screen there is nothing to show it on.
    if show and pyplot.get_backend().lower() != "agg":
        figure.show()
    return figure


def _show(axes: Any, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title)
