"""OML's RetrievalResults: of embeddings and the dataset that they are of, by Euclidean distance."""

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from compat.oml._errors import RefusedAssertion, RefusedIndex, RefusedResults, RefusedType, raised_as, require
from compat.oml.const import N_GT_SHOW_EMBEDDING_METRICS, SEQUENCE_COLUMN, TColor
from compat.oml.interfaces.datasets import (
    IBaseDataset,
    IHTMLVisualizableDataset,
    ILabeledDataset,
    IQueryGalleryDataset,
    IQueryGalleryLabeledDataset,
    IVisualizableDataset,
)
from compat.oml.retrieval._figures import Figure, draw_results, page_of_results
from core.errors import InputError
from core.text import counted
from retrieval.query_gallery import QueryGallery
from retrieval.relevance import Relevance
from retrieval.results import RetrievalResults as Results
from retrieval.topk import search

ROUNDING = 10 * 2.0**-23  # by which distances in order may fall


class RetrievalResults(Results):
    """What retrieval/results.py has of it, with OML's arguments. Ids are positions in the gallery, from 0.

    Raises RefusedResults for distances that are not in order, and an id that is found twice.
    """

    def __init__(
        self,
        distances: Sequence[torch.Tensor],
        retrieved_ids: Sequence[torch.Tensor],
        gt_ids: Sequence[torch.Tensor] | None = None,
    ) -> None:
        with raised_as(RefusedResults):
            super().__init__([_in_order(column) for column in distances], retrieved_ids, gt_ids)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: torch.Tensor,
        dataset: IQueryGalleryDataset,
        n_items: int = 100,
        verbose: bool = False,
    ) -> Self:
        """The n_items nearest of each query of a dataset, never itself nor an item of its own sequence.

        embeddings: (N, D), as `inference` gives them. verbose is taken and has no effect.
        """
        _require_same_length(embeddings, dataset)
        if not hasattr(dataset, "get_query_ids"):
            raise RefusedType(
                f"{type(dataset).__name__} does not say what asks and what is found; that is what "
                "ImageQueryGalleryDataset and its kin are for"
            )
        query_ids = torch.as_tensor(dataset.get_query_ids()).reshape(-1)
        gallery_ids = torch.as_tensor(dataset.get_gallery_ids()).reshape(-1)
        labels = None
        if isinstance(dataset, IQueryGalleryLabeledDataset):
            labels = np.asarray(dataset.get_labels())
        query_gallery = query_gallery_of(embeddings, labels, _sequences(dataset), query_ids, gallery_ids)
        return cls.searched(query_gallery, n_items)

    @classmethod
    def from_embeddings_qg(
        cls,
        embeddings_query: torch.Tensor,
        embeddings_gallery: torch.Tensor,
        dataset_query: IBaseDataset,
        dataset_gallery: IBaseDataset,
        n_items: int = 100,
        verbose: bool = False,
    ) -> Self:
        """The n_items nearest of each query in the gallery of another dataset, of the same modality or not."""
        _require_same_length(embeddings_query, dataset_query)
        _require_same_length(embeddings_gallery, dataset_gallery)
        labels = [_labels(dataset_query), _labels(dataset_gallery)]
        # Of one side alone they tell nothing.
        if any(column is None for column in labels):
            labels = [None, None]
        sequences = [_sequences(dataset_query), _sequences(dataset_gallery)]
        with raised_as(RefusedAssertion):
            query_gallery = QueryGallery.apart(embeddings_query, embeddings_gallery, *labels, *sequences)
        return cls.searched(query_gallery, n_items)

    @classmethod
    def searched(cls, query_gallery: QueryGallery, n_items: int) -> Self:
        """The n_items nearest of each query by Euclidean distance."""
        if n_items < 1:
            raise InputError(f"n_items is {n_items}; at least one item has to be looked for")
        ids, scores = search(query_gallery, n_items, "squared_euclidean")
        distances = scores.clamp_max(0).abs().sqrt()
        return cls.from_padded(distances, ids, Relevance.of_labels(query_gallery))

    def deepcopy(self) -> Self:
        """The same results, of their own memory."""
        return copy.deepcopy(self)

    def visualize(
        self,
        query_ids: Sequence[int],
        dataset: IQueryGalleryDataset,
        n_galleries_to_show: int = 5,
        n_gt_to_show: int = N_GT_SHOW_EMBEDDING_METRICS,
        verbose: bool = False,
        show: bool = False,
    ) -> Figure:
        """Some queries (by their numbers among queries) with what they found and should have found."""
        _require_kind(dataset, IVisualizableDataset)
        _require_kind(dataset, IQueryGalleryDataset)
        queries = dataset.get_query_ids()
        gallery = dataset.get_gallery_ids()
        self._require_queries(len(queries), dataset)

        def query_picture(query: int, color: tuple[int, int, int]) -> np.ndarray:
            return dataset.visualize(item=int(queries[query]), color=color)

        def gallery_picture(position: int, color: tuple[int, int, int]) -> np.ndarray:
            return dataset.visualize(item=int(gallery[position]), color=color)

        return self.visualize_with_functions(
            query_ids, query_picture, gallery_picture, n_galleries_to_show, n_gt_to_show, show
        )

    def visualize_qg(
        self,
        query_ids: Sequence[int],
        dataset_query: IVisualizableDataset,
        dataset_gallery: IVisualizableDataset,
        n_galleries_to_show: int = 5,
        n_gt_to_show: int = N_GT_SHOW_EMBEDDING_METRICS,
        verbose: bool = False,
        show: bool = False,
    ) -> Figure:
        """As `visualize`, of queries and galleries that are datasets each."""
        _require_kind(dataset_query, IVisualizableDataset)
        _require_kind(dataset_gallery, IVisualizableDataset)
        self._require_queries(len(dataset_query), dataset_query)
        return self.visualize_with_functions(
            query_ids, dataset_query.visualize, dataset_gallery.visualize, n_galleries_to_show, n_gt_to_show, show
        )

    def visualize_as_html(
        self,
        query_ids: Sequence[int],
        dataset: IQueryGalleryDataset,
        n_galleries_to_show: int = 3,
        n_gt_to_show: int = N_GT_SHOW_EMBEDDING_METRICS,
        show: bool = False,
    ) -> str:
        """As `visualize`, as HTML: of sounds, each with a player. show: in a notebook."""
        require(isinstance(dataset, IHTMLVisualizableDataset), f"{type(dataset).__name__} has no visualize_as_html()")
        queries = dataset.get_query_ids()
        gallery = dataset.get_gallery_ids()
        self._require_queries(len(queries), dataset)

        def query_block(query: int, color: TColor, title: str) -> str:
            return dataset.visualize_as_html(item=int(queries[query]), title=title, color=color)

        def gallery_block(position: int, color: TColor, title: str) -> str:
            return dataset.visualize_as_html(item=int(gallery[position]), title=title, color=color)

        self._require_numbers(query_ids)
        page = page_of_results(self, query_ids, query_block, gallery_block, n_galleries_to_show, n_gt_to_show)
        # Outside of a notebook there is nothing to show it on.
        if show and "IPython" in sys.modules:
            from IPython.display import HTML, display

            display(HTML(page))
        return page

    def visualize_with_functions(
        self,
        query_ids: Sequence[int],
        visualize_query_fn: Any,
        visualize_gallery_fn: Any,
        n_galleries_to_show: int = 5,
        n_gt_to_show: int = N_GT_SHOW_EMBEDDING_METRICS,
        show: bool = False,
    ) -> Figure:
        """As `visualize`, with functions that draw an item of a number, framed in a colour."""
        self._require_numbers(query_ids)
        return draw_results(
            self, query_ids, visualize_query_fn, visualize_gallery_fn, n_galleries_to_show, n_gt_to_show, show
        )

    def _require_numbers(self, query_ids: Sequence[int]) -> None:
        if not isinstance(query_ids, Iterable):
            raise RefusedType(f"query_ids is {query_ids!r}; it is a list of queries' numbers")
        for number in query_ids:
            if not -len(self) <= number < len(self):
                raise RefusedIndex(f"query_ids has {number}; there are {counted(len(self), 'query')}, from 0")

    def _require_queries(self, count: int, dataset: Any) -> None:
        if count != len(self):
            raise RefusedResults(f"results are of {counted(len(self), 'query')}, {type(dataset).__name__} has {count}")


def query_gallery_of(
    embeddings: torch.Tensor,
    labels: np.ndarray | None,
    sequences: np.ndarray | None,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
) -> QueryGallery:
    """Rows of one table that ask, and those that can be found, so that what is found are positions among the latter."""
    everyone = torch.arange(len(embeddings))
    if torch.equal(query_ids, everyone) and torch.equal(gallery_ids, everyone):
        return QueryGallery.of(embeddings, labels, sequences=sequences)
    query_gallery = QueryGallery.apart(
        embeddings[query_ids],
        embeddings[gallery_ids],
        _taken(labels, query_ids),
        _taken(labels, gallery_ids),
        _taken(sequences, query_ids),
        _taken(sequences, gallery_ids),
    )
    position = torch.full((len(embeddings),), -1)
    position[gallery_ids] = torch.arange(len(gallery_ids))
    return replace(query_gallery, self_rows=position[query_ids].to(query_gallery.device))


def _taken(column: np.ndarray | None, rows: torch.Tensor) -> np.ndarray | None:
    return None if column is None else column[rows.numpy()]


def _sequences(dataset: IBaseDataset) -> np.ndarray | None:
    """The sequence of each item, as texts or whole numbers; None where they are unknown."""
    column = getattr(dataset, "extra_data", {}).get(SEQUENCE_COLUMN)
    if column is None:
        return None
    column = np.asarray(column)
    return column if column.dtype.kind in "iu" else column.astype(str)


def _labels(dataset: IBaseDataset) -> np.ndarray | None:
    return np.asarray(dataset.get_labels()) if isinstance(dataset, ILabeledDataset) else None


def _in_order(distances: torch.Tensor) -> torch.Tensor:
    """Distances (K,) that fall by no more than their rounding, in order; others as they are."""
    distances = torch.as_tensor(distances)
    if distances.ndim != 1 or len(distances) < 2:
        return distances
    if (distances.diff() > -ROUNDING).all():
        return distances.cummax(0).values
    return distances


def _require_same_length(embeddings: torch.Tensor, dataset: IBaseDataset) -> None:
    require(
        len(embeddings) == len(dataset),
        f"{counted(len(embeddings), 'embedding')} of a dataset of {counted(len(dataset), 'item')}",
    )


def _require_kind(dataset: Any, kind: type) -> None:
    if not isinstance(dataset, kind):
        raise RefusedType(f"{type(dataset).__name__} is no {kind.__name__}, without which nothing can be shown")


__all__ = ["RetrievalResults"]
