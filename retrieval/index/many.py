"""The nearest items of an index for many queries: rows are scaled once for all of them."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from retrieval.plain import best_scored
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores
from retrieval.topk import search_in_parts
from retrieval.unscaled import Block


@torch.no_grad()
def nearest_of_many(queries: np.ndarray, blocks: Iterable[Block], k: int, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """As retrieval.index.nearest.nearest, of the rows in `blocks`, which retrieval/unscaled.py describes."""
    asking = torch.from_numpy(queries)
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for stored_ids, stored, stored_lengths, live in blocks:
        embeddings = torch.from_numpy(stored)
        lengths = torch.from_numpy(stored_lengths)
        task = replace(QueryGallery.apart(asking, embeddings), gallery_rows=torch.from_numpy(live))
        found = search_in_parts(task, k, "cosine", memory // 2, gallery_lengths=lengths)
        block_rows = torch.cat([found_rows for _, found_rows, _ in found])
        block_scores = _cosines(asking, embeddings, lengths, block_rows)
        block_ids = stored_ids[block_rows.numpy()]
        # The best so far and the block's together have the best k of both.
        ids, scores = best_scored(np.hstack([ids, block_ids]), np.hstack([scores, block_scores]), k)
    return ids, scores


def _cosines(queries: torch.Tensor, embeddings: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """Exact cosines (Q, n) of each query with rows (Q, n) of its own in some embeddings."""
    scores = Scores(QueryGallery.apart(queries, embeddings), "cosine", lengths)
    query_of = torch.arange(len(queries)).repeat_interleave(rows.shape[1])
    return scores.exact_pairs(query_of, rows.flatten()).view(rows.shape).numpy()
