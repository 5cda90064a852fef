"""Queries with what they found, as a figure of matplotlib and as HTML."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compat.oml.const import BLACK, BLUE, GRAY, GREEN, RED
from core.packages import needed
from retrieval.results import RetrievalResults

Figure = Any  # matplotlib's, which is an extra package
Color = tuple[int, int, int]
Draw = Callable[[int, Color], np.ndarray]
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
    most_items = min(most_items, max(int(results.counts[query]) for query in query_ids))
    most_right = 0 if results.relevance is None else most_right
    columns = 1 + most_items + most_right
    rows = len(query_ids)
    figure, grid = pyplot.subplots(rows, columns, squeeze=False, figsize=(WIDTH, WIDTH / columns * rows))
    for axes in grid.flat:
        axes.axis("off")
    for axes, query in zip(grid, query_ids):
        _show(axes[0], draw_query(query, BLUE), f"Query #{query}")
        for place, (item, distance, color) in enumerate(_found(results, query, most_items)):
            _show(axes[1 + place], draw_item(item, color), f"Gallery #{item} - {distance:.3f}")
        for place, item in enumerate(_right(results, query, most_right), start=1 + most_items):
            _show(axes[place], draw_item(item, GRAY), "GT")
    figure.tight_layout()
    # On a machine without a screen there is nothing to show it on.
    if show and pyplot.get_backend().lower() != "agg":
        figure.show()
    return figure


def page_of_results(
    results: RetrievalResults,
    query_ids: Sequence[int],
    query_block: Callable[[int, Color, str], str],
    item_block: Callable[[int, Color, str], str],
    most_items: int,
    most_right: int,
) -> str:
    """As draw_results, as HTML. query_block, item_block: a block of a number, in a colour, with a title."""
    rows = []
    for query in query_ids:
        blocks = [query_block(query, BLUE, f"Query #{query}")]
        for item, distance, color in _found(results, query, most_items):
            blocks.append(item_block(item, color, f"Gallery #{item} - {distance:.3f}"))
        for item in _right(results, query, most_right):
            blocks.append(item_block(item, GRAY, "GT"))
        rows.append(f'<div style="display: flex">{"".join(blocks)}</div>')
    return "<div>" + "\n".join(rows) + "</div>"


def _found(results: RetrievalResults, query: int, most: int) -> Iterator[tuple[int, float, Color]]:
    """(number, distance, colour) of what a query has found, nearest first."""
    for place, item in enumerate(results.retrieved_ids[query][:most].tolist()):
        color = BLACK
        if results.relevance is not None:
            color = GREEN if results.hits[query, place] else RED
        yield item, results.padded_distances[query, place].item(), color


def _right(results: RetrievalResults, query: int, most: int) -> list[int]:
    """Numbers of what is right for a query, where that is known."""
    return [] if results.relevance is None else results.relevance.rows(query)[:most].tolist()


def _show(axes: Any, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title)
