"""The k nearest gallery items of every query: exact, in blocks, a symmetric matrix multiplied once."""

from collections.abc import Iterator

import torch

from core.slices import MEMORY
from retrieval.candidates import KEY_BYTES, ROOM, Candidates, kept_candidates
from retrieval.product_type import fastest
from retrieval.query_gallery import QueryGallery
from retrieval.rows import Frame
from retrieval.scores import Scores

FEWEST = 64  # queries are searched for in portions no smaller than this
CLOSE_PAIRS = 250  # items of the gallery that a candidate more costs as much as a type that is faster saves


@torch.no_grad()
def search(
    query_gallery: QueryGallery,
    k: int,
    distance: str = "cosine",
    memory: int = MEMORY,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest items of each query, nearest first: rows (Q, k) int64 of the gallery's table, scores float32.

    Larger scores are closer (retrieval/exact.py). A query finds neither itself nor an item of its own sequence; where
    it can find fewer than k, rows end in -1 and scores in -infinity. k beyond the gallery means all of it. The order is
    that of exact scores, equal ones by the smaller row; the scores returned are within float32 rounding of them.
    memory: bytes beside the embeddings, the result and a few numbers a row. dtype: of the products that choose the
    candidates, bfloat16 or float32, None for what this device multiplies fastest; the result is the same.
    """
    all_rows = []
    all_scores = []
    for _, rows, scores in search_in_parts(query_gallery, k, distance, memory, dtype):
        all_rows.append(rows)
        all_scores.append(scores)
    return torch.cat(all_rows), torch.cat(all_scores)


@torch.no_grad()
def search_in_parts(
    query_gallery: QueryGallery,
    k: int,
    distance: str = "cosine",
    memory: int = MEMORY,
    dtype: torch.dtype | None = None,
    gallery_lengths: torch.Tensor | None = None,
    frame: Frame | None = None,
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """`search`, yielding (queries, rows, scores) for a slice of queries at a time, so that nothing is held for all.

    gallery_lengths, frame: as Scores has them.
    """
    scores = Scores(query_gallery, distance, gallery_lengths, frame)
    k = min(k, len(query_gallery.gallery_rows))
    if dtype is None:
        dtype = first_type(query_gallery, scores, k)
    kept = kept_candidates(scores, k, dtype)
    # Half of the memory holds candidates: the more, the more is symmetric.
    most_queries = max(FEWEST, memory // 2 // (KEY_BYTES * (kept + ROOM)))
    queries = torch.arange(len(query_gallery.query_rows), device=query_gallery.device)
    for portion in queries.tensor_split(-(-len(queries) // most_queries)):
        # A little less where there is room beyond those kept, since each thread has copies of its blocks besides.
        candidates = Candidates(query_gallery, scores, portion, k, dtype, kept, memory * 3 // 8)
        # A guessed floor saves most of the sorting; where it was too high, `nearest` looks again.
        candidates.collect(memory // 2, guess=True)
        first = int(portion[0])
        for part in candidates.parts():
            yield slice(first + part.start, first + part.stop), *candidates.nearest(part, memory)


def first_type(query_gallery: QueryGallery, scores: Scores, k: int) -> torch.dtype:
    """The type that candidates are chosen by: what this device multiplies fastest, unless it leaves much in doubt."""
    pairs = len(query_gallery.query_rows) * len(query_gallery.gallery_rows)
    dtype = fastest(query_gallery.device, scores.width, pairs, (torch.bfloat16, torch.float32))
    if dtype == torch.float32:
        return dtype
    more = kept_candidates(scores, k, dtype) - kept_candidates(scores, k, torch.float32)
    return torch.float32 if CLOSE_PAIRS * more > len(query_gallery.gallery_rows) else dtype
