"""OML's search, given and giving lists."""

from collections.abc import Sequence

import numpy as np
import torch

from compat.oml.retrieval.results import RetrievalResults, query_gallery_of

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


__all__ = ["batched_knn"]
