"""k-reciprocal neighbourhoods (arXiv 1701.08398) on lists of nearest neighbours, held sparsely: memory grows with N."""

from dataclasses import dataclass
from functools import cached_property

import torch

from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores
from retrieval.topk import search

CHUNK = 2**22  # entries worked on at a time


@dataclass(frozen=True)
class SparseRows:
    """N rows of N numbers, most of them 0: keys (E,) int64, ascending, row * N + column; values (E,) float32."""

    keys: torch.Tensor
    values: torch.Tensor
    size: int

    @cached_property
    def counts(self):
        """(N,) int64: entries of each row."""
        return (self.keys // self.size).bincount(minlength=self.size)

    def entries(self, rows):
        """All entries of rows (n,): which of `rows` each belongs to, its column and value."""
        owner, places = spread((self.counts.cumsum(0) - self.counts)[rows], self.counts[rows])
        return owner, self.keys[places] % self.size, self.values[places]


def spread(starts, counts):
    """Runs of places start, start + 1, …, one run for each of starts (n,): (which run, place), each (Σ counts,)."""
    run = torch.arange(len(starts), device=starts.device).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return run, torch.arange(len(run), device=run.device) - first[run] + starts[run]


def one_set(task):
    """Queries and gallery as one Task; each query's place in it (Q,); the place of each row of the gallery's table."""
    if task.one_table:
        chosen = torch.zeros(len(task.gallery_table), dtype=torch.bool, device=task.device)
        chosen[task.query_rows] = chosen[task.gallery_rows] = True
        place = chosen.cumsum(0) - 1
        return QueryGallery.of(task.gallery_table, is_query=chosen, is_gallery=chosen), place[task.query_rows], place
    gallery, queries = task.gallery_table[task.gallery_rows], task.query_table[task.query_rows]
    place = torch.zeros(len(task.gallery_table), dtype=torch.int64, device=task.device)
    place[task.gallery_rows] = torch.arange(len(gallery), device=task.device)
    both = torch.cat([gallery, queries.to(gallery)])
    return QueryGallery.of(both), torch.arange(len(gallery), len(both), device=task.device), place


def neighbours(task, k):
    """(N, up to k + 1) int64: each item's own place, then those of its k nearest, in a Task of one set."""
    own = torch.arange(len(task.query_rows), device=task.device)[:, None]
    if len(own) == 1:
        return own
    rows, _ = search(task, min(k, len(own) - 1))
    return torch.cat([own, torch.searchsorted(task.gallery_rows, rows)], dim=1)


def reciprocal_keys(near, k):
    """Keys (row * N + column), ascending, of R(i, k), eq. 3: those of i and its k nearest that have i likewise."""
    size = len(near)
    own = torch.arange(size, device=near.device)[:, None]
    keys = (own * size + near[:, : k + 1]).flatten().sort().values
    return keys[_among(keys % size * size + keys // size, keys)]


def _among(wanted, keys):
    """(n,) bool: which of wanted (n,) are among the ascending keys."""
    return keys[torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)] == wanted


def encoded(task, near, k1):
    """V, eq. 7: exp(-d) over R*(i, k1), eq. 5, each row scaled to sum 1. d is 1 - cosine."""
    size, wide, narrow = len(near), reciprocal_keys(near, k1), reciprocal_keys(near, round(k1 / 2))
    counts = (narrow // size).bincount(minlength=size)
    starts = counts.cumsum(0) - counts
    keys = [wide]
    for part in wide.split(max(1, CHUNK // (k1 // 2 + 1))):
        member = part % size
        edge, place = spread(starts[member], counts[member])
        candidates = part[edge] // size * size + narrow[place] % size
        common = _among(candidates, wide).double()
        common = torch.zeros(len(part), dtype=torch.float64, device=part.device).index_add_(0, edge, common)
        keys.append(candidates[(3 * common > 2 * counts[member])[edge]].unique())
    keys = torch.cat(keys).unique()
    return scaled(keys, Scores(task), size)


def scaled(keys, space, size):
    """exp(cosine - 1) for the pairs of `keys`, each row scaled to sum 1."""
    row, column = keys // size, keys % size
    values = (
        torch.cat(
            [space.close_pairs(one, other[:, None])[:, 0] for one, other in zip(row.split(CHUNK), column.split(CHUNK))]
        )
        .sub_(1)
        .exp_()
    )
    total = torch.zeros(size, device=values.device).index_add_(0, row, values)
    return SparseRows(keys, values / total[row], size)


def averaged(vectors, near):
    """Each row the mean of the rows of vectors at its places near (N, n), eq. 11."""
    if near.shape[1] == 1:
        return vectors
    keys, values = [], []
    most = int(vectors.counts.max()) * near.shape[1]
    for rows in torch.arange(len(near), device=near.device).split(max(1, CHUNK // most)):
        owner, column, value = vectors.entries(near[rows].flatten())
        key = rows[owner // near.shape[1]] * vectors.size + column
        key, place = key.unique(return_inverse=True)
        keys.append(key)
        values.append(torch.zeros(len(key), device=key.device).index_add_(0, place, value) / near.shape[1])
    return SparseRows(torch.cat(keys), torch.cat(values), vectors.size)


def jaccard_distances(vectors, queries, places):
    """Eq. 10 for each of the places queries (Q,) with its own row of places (Q, K): (Q, K) float32.

    Rows of vectors sum to 1, so Σ max = 2 - Σ min.
    """
    shared = torch.zeros(places.shape, device=places.device)
    most = max(int(vectors.counts.max()) * places.shape[1], vectors.size)
    dense = torch.zeros(max(1, CHUNK // most), vectors.size, device=places.device)
    for start in range(0, len(queries), len(dense)):
        part = slice(start, min(start + len(dense), len(queries)))
        owner, column, value = vectors.entries(queries[part])
        dense[owner, column] = value
        pair, column_found, value_found = vectors.entries(places[part].flatten())
        least = torch.minimum(dense[pair // places.shape[1], column_found], value_found)
        shared[part] = (
            torch.zeros(places[part].numel(), device=least.device).index_add_(0, pair, least).view(-1, places.shape[1])
        )
        dense[owner, column] = 0
    return 1 - shared / (2 - shared)
