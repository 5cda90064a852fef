"""OML's search, given and giving lists."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from compat.oml._errors import require
from compat.oml.retrieval.retrieval_results import RetrievalResults, query_gallery_of
from retrieval.query_gallery import QueryGallery
from core.text import counted

Found = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[torch.Tensor] | None]


def batched_knn(
    embeddings: torch.Tensor,
    ids_query: torch.Tensor,
    ids_gallery: torch.Tensor,
    top_n: int,
    sequence_ids: torch.Tensor | None = None,
    labels_gt: torch.Tensor | None = None,
    bs: int = 5000,
    verbose: bool = False,
) -> Found:
    """(distances, ids, right ids), lists for each query, of rows of one table; ids are positions in the gallery.

    bs, verbose are taken and have no effect: memory is bounded anyhow.
    """
    columns = [None if column is None else np.asarray(column) for column in (labels_gt, sequence_ids)]
    results = RetrievalResults.searched(query_gallery_of(embeddings, *columns, ids_query, ids_gallery), top_n)
    return results.distances, results.retrieved_ids, results.gt_ids


def batched_knn_qg(
    embeddings_query: torch.Tensor,
    embeddings_gallery: torch.Tensor,
    top_n: int,
    labels_query: torch.Tensor | None = None,
    labels_gallery: torch.Tensor | None = None,
    ids_query: torch.Tensor | None = None,
    ids_gallery: torch.Tensor | None = None,
    sequence_ids_query: torch.Tensor | None = None,
    sequence_ids_gallery: torch.Tensor | None = None,
    bs: int = 5000,
    verbose: bool = False,
) -> Found:
    """As batched_knn, of queries (Q, D) and items (G, D) apart. ids: which query is which item, or neither of both.

    Raises RefusedAssertion where one side of a pair of columns is missing, or has another length than its embeddings.
    """
    of_queries = {"labels": labels_query, "ids": ids_query, "sequence_ids": sequence_ids_query}
    of_items = {"labels": labels_gallery, "ids": ids_gallery, "sequence_ids": sequence_ids_gallery}
    for name, column in of_queries.items():
        require((column is None) == (of_items[name] is None), f"{name} are given for one side alone")
        if column is not None:
            lengths = f"{len(column)} and {len(of_items[name])}"
            sizes = f"{counted(len(embeddings_query), 'query')} and {counted(len(embeddings_gallery), 'item')}"
            is_right = (len(column), len(of_items[name])) == (len(embeddings_query), len(embeddings_gallery))
            require(is_right, f"{name} are {lengths} for {sizes}")
    columns = [labels_query, labels_gallery, sequence_ids_query, sequence_ids_gallery]
    arrays = [None if column is None else np.asarray(column) for column in columns]
    query_gallery = QueryGallery.apart(embeddings_query, embeddings_gallery, *arrays)
    if ids_query is not None:
        rows = {number: row for row, number in enumerate(ids_gallery.tolist())}
        itself = torch.tensor([rows.get(number, -1) for number in ids_query.tolist()])
        query_gallery = replace(query_gallery, self_rows=itself.to(query_gallery.device))
    results = RetrievalResults.searched(query_gallery, top_n)
    return results.distances, results.retrieved_ids, results.gt_ids


__all__ = ["batched_knn", "batched_knn_qg"]
