"""The k nearest gallery items of every query: exact, in blocks, a symmetric matrix multiplied once."""

import torch

from retrieval.best_positive import MEMORY, fast_dtype
from retrieval.candidates import ROOM, Candidates, kept_candidates
from retrieval.rows import pieces
from retrieval.scores import Scores

FEWEST = 64  # queries are searched for in parts no smaller than this


@torch.no_grad()
def search(task, k, distance="cosine", memory=MEMORY, dtype=None):
    """The k nearest items of each query, nearest first: rows (Q, k) int64 of the gallery's table, scores float32.

    Larger scores are closer (retrieval/space.py). A query finds neither itself nor an item of its own sequence; where
    it can find fewer than k, rows end in -1 and scores in -infinity. k beyond the gallery means all of it. The order is
    that of exact scores, equal ones by the smaller row; the scores returned are within float32 rounding of them.
    memory: bytes beside the embeddings, the result and a few numbers a row. dtype: of the products that choose the
    candidates, None for what the device multiplies fastest; the result is the same.
    """
    found = [(rows, scores) for _, rows, scores in search_in_parts(task, k, distance, memory, dtype)]
    return tuple(torch.cat(column) for column in zip(*found))


@torch.no_grad()
def search_in_parts(task, k, distance="cosine", memory=MEMORY, dtype=None, gallery_lengths=None, frame=None):
    """`search`, yielding (queries, rows, scores) for a slice of queries at a time, so that nothing is held for all.

    gallery_lengths, frame: as Space has them.
    """
    space, dtype = Scores(task, distance, gallery_lengths, frame), dtype or fast_dtype(task.device)
    k, queries = min(k, len(task.gallery_rows)), torch.arange(len(task.query_rows), device=task.device)
    most = max(FEWEST, memory // 3 // (8 * (kept_candidates(k, dtype) + ROOM)))
    for part in queries.tensor_split(-(-len(queries) // most)):
        candidates = Candidates(task, space, part, k, dtype)
        candidates.collect(memory, guess=True)
        for few in pieces(len(part), 16 * candidates.kept):
            chosen = slice(int(part[0]) + few.start, int(part[0]) + few.stop)
            yield chosen, *candidates.nearest(few, memory)
