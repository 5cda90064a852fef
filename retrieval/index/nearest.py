"""The nearest items of an index's rows, exactly: part by part, each mapped, searched and let go again."""

import math
from dataclasses import replace

import numpy as np
import torch

from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.rows import pieces
from retrieval.scores import Scores
from retrieval.topk import search_in_parts


@torch.no_grad()
def nearest(rows, queries, k, memory):
    """The k nearest items of each query, nearest first: ids (Q, k) int64, exact cosines (Q, k) float32.

    rows: Rows; queries: (Q, D) float32 tensor. Equal cosines go by the smaller id. k is at most the number of items.
    memory: bytes beside queries and results.
    """
    ids, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for segment, part, live in rows.blocks(memory // 8):
        table = torch.from_numpy(segment.embeddings(part.start, part.stop))
        lengths = torch.from_numpy(segment.lengths[part])
        task = replace(QueryGallery.apart(queries, table), gallery_rows=torch.from_numpy(live))
        found = search_in_parts(task, k, "cosine", memory // 2, gallery_lengths=lengths)
        places = torch.cat([places for _, places, _ in found])
        new = segment.ids[part][places.numpy()], _cosines(queries, table, lengths, places)
        ids, scores = _best(np.hstack([ids, new[0]]), np.hstack([scores, new[1]]), k)
    return ids, scores


@torch.no_grad()
def best_of(rows, queries, candidates, k):
    """The k nearest among each query's own candidates, ids (Q, C): ids (Q, k), exact cosines (Q, k) as of `nearest`.

    Candidates that are no items, such as -1, are left out; where fewer than k remain, ids end in -1 and cosines in
    -infinity.
    """
    short = max(0, k - candidates.shape[1])
    candidates = np.pad(candidates, ((0, 0), (0, short)), constant_values=NOWHERE)
    known, ids, scores = rows.has(candidates), [], []
    for part in pieces(*candidates.shape[:1], candidates.shape[1] * rows.width):
        some, places = np.unique(np.where(known[part], candidates[part], rows.ids[0]), return_inverse=True)
        table, lengths = (torch.from_numpy(column) for column in rows.take(some))
        cosines = _cosines(queries[part], table, lengths, torch.from_numpy(places).view(known[part].shape))
        cosines[~known[part]] = -math.inf
        found = _best(np.where(known[part], candidates[part], NOWHERE), cosines, k)
        ids.append(found[0])
        scores.append(found[1])
    return np.concatenate(ids), np.concatenate(scores)


def _cosines(queries, table, lengths, places):
    """Exact cosines (Q, n) of each query with its own places (Q, n) in a table."""
    space = Scores(QueryGallery.apart(queries, table), "cosine", lengths)
    asking = torch.arange(len(queries)).repeat_interleave(places.shape[1])
    return space.exact_pairs(asking, places.flatten()).view(places.shape).numpy()


def _best(ids, scores, k):
    """The k greatest scores of each row, (Q, n) both, equal ones by the smaller id."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
