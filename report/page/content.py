"""What a page is made of, as arrays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from core.text import counted
from data.records import Records
from embeddings.attention import Look
from report.page.album import LoadImage
from report.page.duplicates import LookAlikes
from report.thumbnails import load_thumbnail
from retrieval.metrics.pairs import PairHistogram
from retrieval.results import RetrievalResults

LookAt = Callable[[list[tuple[int, int]]], list[tuple[Look | None, Look | None]]]


@dataclass(frozen=True)
class PageContent:
    """What the page shows of N images, of which Q ask.

    title: one line; facts: {name: value}, such as list, model, versions. figures: as per_query.summary
    gives them; its first metric is the categories'. records: the list. embeddings: (N, D). query_rows: (Q,) the rows
    that ask. results: what each query found, as the search gives it; its ids are rows of the list. query_values (Q,):
    the metric `query_metric` of each query, by which they are the worst and the best. histogram: scores of all pairs.
    distance: as retrieval takes it; definition: whose the figures are, as retrieval.metrics takes it. projection: pca
    or umap. label_pairs: near-duplicates of different labels, from duplicates.closest_across_labels. leaks: those in
    another list, from duplicates.closest_across_lists, with that list: `others`. load_image: the picture of a
    row of a list. look: from pairs of rows, a query and its best hit, to the looks at both; None: there are none.
    look_method: how these were found. verification: same or not, as result.json has it, or None. notices: sentences
    that stand above the figures.
    """

    title: str
    facts: dict[str, object]
    figures: dict[str, dict]
    records: Records
    embeddings: torch.Tensor
    query_rows: np.ndarray
    results: RetrievalResults
    query_values: np.ndarray
    query_metric: str
    histogram: PairHistogram
    distance: str = "cosine"
    definition: str = "standard"
    projection: str = "pca"
    label_pairs: LookAlikes | None = None
    leaks: LookAlikes | None = None
    others: Records | None = None
    load_image: LoadImage = load_thumbnail
    look: LookAt | None = None
    look_method: str = ""
    verification: dict | None = None
    notices: tuple[str, ...] = ()

    def check_lengths(self) -> None:
        """Raise InputError where one column has not as many rows as another."""
        rows = len(self.embeddings)
        queries = len(self.query_rows)
        if len(self.records) != rows:
            raise InputError(f"a report of {counted(rows, 'embedding')} has {counted(len(self.records), 'path')}")
        for name, length in (("results", len(self.results)), ("query values", len(self.query_values))):
            if length != queries:
                raise InputError(f"a report of {counted(queries, 'query')} has {length} {name}")
        if self.leaks is not None and self.others is None:
            raise InputError("leaks into another list can be shown with that list only: others is missing")
