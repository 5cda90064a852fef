"""What images of a list find in an index, as people want it answered: by label, diverse, for several photos at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.errors import InputError
from core.types import Positive, Share, Texts
from data.records import Records
from embeddings.queries import Queries
from retrieval.answers import diverse_order, first_of_each, greatest_scores, pool_of
from retrieval.index.index import Hits, Index
from retrieval.index.selection import select
from retrieval.templates import mean_embeddings, unit_rows


@dataclass(frozen=True)
class Found:
    """What Q queries found: Hits of (Q, k); rows: for each the rows of the list that ask together."""

    hits: Hits
    rows: list[np.ndarray]


def find_answers(
    index: Index,
    queries: Queries,
    *,
    k: Positive = 10,
    labels: Texts | None = None,
    categories: Texts | None = None,
    search_memory_mb: Positive = 256,
    group: Literal["none", "label"] = "none",
    template: Literal["none", "mean", "max"] = "none",
    diversity: Share = 0.0,
    query_by: Literal["image", "label", "all"] = "image",
    fuse: Literal["mean", "max"] = "mean",
) -> Found:
    """What each query finds in an index, k items or all there are.

    Options:
        k: items to find
        labels: only items of these labels, or of labels that are called so
        categories: only items of these categories
        search_memory_mb: memory that a search may take, in MB
        group: label: the best item of each label only; an item without a label stands for itself
        template: with --group=label labels go by the score of their best item (max, and none) or by that of the mean of
            all of their items
        diversity: above 0: items that are unlike each other come first, up to 1, where the query hardly counts (MMR)
        query_by: what asks: each image; all images of a label together; or all of them
        fuse: several images that ask together: by the mean of their embeddings, or each, and the greatest score counts

    Raises InputError as Index.search, for --template without --group=label, and for --query_by=label without labels.
    """
    if template != "none" and group != "label":
        raise InputError(f"--template={template} goes with --group=label")
    rows = query_rows(queries.records, query_by)
    finder = _Finder(index, queries, rows, fuse, labels, categories, search_memory_mb * 2**20)
    wanted = pool_of(k) if diversity else k
    if template == "mean":
        ids, scores = finder.by_mean_template(wanted)
    elif group == "label":
        ids, scores = finder.by_label(wanted)
    else:
        ids, scores = finder.nearest(wanted)
    if diversity:
        ids, scores = _diverse(index, ids, scores, k, diversity)
    return Found(index.hits(ids, scores), rows)


def query_rows(records: Records, query_by: str) -> list[np.ndarray]:
    """For each query the rows of a list that ask together. Raises InputError where labels are wanted and unknown."""
    everyone = np.arange(len(records))
    if query_by == "image":
        return list(everyone[:, None])
    if query_by == "all":
        return [everyone]
    if records.labels is None:
        raise InputError(f"--query_by=label needs labels, which {records.source} does not have")
    codes = records.vocabulary.codes
    # In the order in which labels first come.
    _, first = np.unique(codes, return_index=True)
    return [np.flatnonzero(codes == codes[row]) for row in np.sort(first).tolist()]


class _Finder:
    """Searches an index for queries of one or several rows."""

    def __init__(
        self,
        index: Index,
        queries: Queries,
        rows: list[np.ndarray],
        fuse: str,
        labels: Iterable | None,
        categories: Iterable | None,
        memory: int,
    ):
        self.index = index
        self.rows = rows
        self.filters = {"labels": labels, "categories": categories}
        self.memory = memory
        self.fingerprint = queries.fingerprint
        self.queries = queries.embeddings
        self.takes_greatest = fuse == "max" and max(map(len, rows)) > 1
        if not self.takes_greatest and max(map(len, rows)) > 1:
            numbers = np.empty(len(self.queries), dtype=np.int64)
            for query, together in enumerate(rows):
                numbers[together] = query
            self.queries = mean_embeddings(self.queries, numbers)

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, scores), (Q, n) each with n up to k: the nearest items of each query."""
        hits = self.index.search(self.queries, k, self.fingerprint, self.memory, **self.filters)
        if not self.takes_greatest:
            return hits.ids, hits.scores
        merged = [greatest_scores(hits.ids[rows], hits.scores[rows], hits.ids.shape[1]) for rows in self.rows]
        return np.stack([ids for ids, _ in merged]), np.stack([scores for _, scores in merged])

    def by_label(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, of each label the best item only."""
        depth = k
        while True:
            ids, scores = self.nearest(depth)
            places = first_of_each(self._groups(ids), k)
            fewest = min(map(len, places))
            # Deeper and deeper, until there are enough labels or no items more.
            if fewest == k or ids.shape[1] < depth or depth >= len(self.index):
                break
            depth *= 4
        places = np.stack([row[:fewest] for row in places])
        return np.take_along_axis(ids, places, 1), np.take_along_axis(scores, places, 1)

    def by_mean_template(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `by_label`, labels going by the cosine with the mean of all of their items, which is their score."""
        # These import torch, which no other answer needs.
        from retrieval.query_gallery import QueryGallery
        from retrieval.topk import search

        rows = self.index.rows
        selection = select(rows, **self.filters)
        ids = rows.ids if selection is None else selection.ids
        groups, numbers = np.unique(self._groups(ids), return_inverse=True)
        templates = mean_embeddings(rows.take(ids)[0], numbers)
        k = min(k, len(groups))
        found, scores = search(QueryGallery.apart(self.queries, templates), k, memory=self.memory)
        found, scores = found.numpy(), scores.numpy()
        if self.takes_greatest:
            merged = [greatest_scores(found[rows], scores[rows], k) for rows in self.rows]
            found, scores = (np.stack(columns) for columns in zip(*merged))
        # The item that stands for a label is its nearest to the first image that asks.
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(len(groups) + 1))
        shown = np.empty_like(found)
        for query in range(len(found)):
            asking = query
            if self.takes_greatest:
                asking = int(self.rows[query][0])
            direction = unit_rows(self.queries[asking : asking + 1])[0]
            for place, group in enumerate(found[query].tolist()):
                members = ids[order[starts[group] : starts[group + 1]]]
                shown[query, place] = members[(rows.normalized(members) @ direction).argmax()]
        return shown, scores

    def _groups(self, ids: np.ndarray) -> np.ndarray:
        """A number for the label of each item; one that has none is a group of its own."""
        codes = self.index.rows.label_column.codes[self.index.rows.positions(ids)]
        return np.where(codes < 0, -2 - ids, codes)


def _diverse(
    index: Index, ids: np.ndarray, scores: np.ndarray, k: int, diversity: float
) -> tuple[np.ndarray, np.ndarray]:
    places = []
    for row, row_scores in zip(ids, scores):
        places.append(diverse_order(row_scores, index.rows.normalized(row), k, diversity))
    places = np.stack(places)
    return np.take_along_axis(ids, places, 1), np.take_along_axis(scores, places, 1)


def records_of_queries(records: Records, rows: list[np.ndarray]) -> Records:
    """The first row of each query's."""
    return records.take([int(together[0]) for together in rows])
