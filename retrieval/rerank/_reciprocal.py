"""k-reciprocal neighbourhoods (arXiv 1701.08398) on lists of nearest neighbours, held sparsely: memory grows with N."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from core.slices import slices_of, step_within
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores
from retrieval.topk import search

ENTRIES = 2**22  # of sparse rows that are worked on at a time


@dataclass(frozen=True)
class SparseRows:
    """N rows of N numbers, most of them 0: keys (E,) int64, ascending, row * N + column; values (E,) float32."""

    keys: torch.Tensor
    values: torch.Tensor
    size: int

    @cached_property
    def counts(self) -> torch.Tensor:
        """(N,) int64: entries of each row."""
        return (self.keys // self.size).bincount(minlength=self.size)

    def entries(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All entries of rows (n,): which of `rows` each belongs to, its column and value."""
        starts = self.counts.cumsum(0) - self.counts
        owner, places = runs(starts[rows], self.counts[rows])
        return owner, self.keys[places] % self.size, self.values[places]


class JoinedSet(NamedTuple):
    """Queries and gallery items as one set, each against the rest.

    query_positions (Q,): where each query stands in the set. position_of_gallery_row (N,): where each row of the
    gallery's table does, if it is in the gallery.
    """

    query_gallery: QueryGallery
    query_positions: torch.Tensor
    position_of_gallery_row: torch.Tensor


def runs(starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs of places start, start + 1, …, one run for each of starts (n,): (which run, place), each (Σ counts,)."""
    run = torch.arange(len(starts), device=starts.device).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return run, torch.arange(len(run), device=run.device) - first[run] + starts[run]


def joined(query_gallery: QueryGallery) -> JoinedSet:
    """Queries and gallery as one set: rows of one table that are both are in it once."""
    device = query_gallery.device
    query_rows = query_gallery.query_rows
    gallery_rows = query_gallery.gallery_rows
    table = query_gallery.gallery_table
    if query_gallery.one_table:
        # A row that asks and can be found is one member.
        is_member = torch.zeros(len(table), dtype=torch.bool, device=device)
        is_member[query_rows] = True
        is_member[gallery_rows] = True
        position = is_member.cumsum(0) - 1
        everyone = QueryGallery.of(table, is_query=is_member, is_gallery=is_member)
        return JoinedSet(everyone, position[query_rows], position)
    gallery = table[gallery_rows]
    queries = query_gallery.query_table[query_rows]
    position = torch.zeros(len(table), dtype=torch.int64, device=device)
    position[gallery_rows] = torch.arange(len(gallery), device=device)
    everyone = QueryGallery.of(torch.cat([gallery, queries.to(gallery)]))
    query_positions = torch.arange(len(gallery), len(gallery) + len(queries), device=device)
    return JoinedSet(everyone, query_positions, position)


def neighbours(everyone: QueryGallery, k: int) -> torch.Tensor:
    """(N, up to k + 1) int64: each item's own position, then those of its k nearest, in one set."""
    itself = torch.arange(len(everyone.query_rows), device=everyone.device)[:, None]
    if len(itself) == 1:
        return itself
    rows, _ = search(everyone, min(k, len(itself) - 1))
    return torch.cat([itself, torch.searchsorted(everyone.gallery_rows, rows)], dim=1)


def reciprocal_keys(near: torch.Tensor, k: int) -> torch.Tensor:
    """Keys (row * N + column), ascending, of R(i, k), eq. 3: those of i and its k nearest that have i likewise."""
    size = len(near)
    itself = torch.arange(size, device=near.device)[:, None]
    keys = (itself * size + near[:, : k + 1]).flatten().sort().values
    # j is a reciprocal neighbour of i if the pair is there the other way round, too.
    mirrored = keys % size * size + keys // size
    return keys[is_among(mirrored, keys)]


def is_among(wanted: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(n,) bool: which of wanted (n,) are among the ascending keys."""
    return keys[torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)] == wanted


def encoded(everyone: QueryGallery, near: torch.Tensor, k1: int) -> SparseRows:
    """V, eq. 7: exp(-d) over R*(i, k1), eq. 5, each row scaled to sum 1. d is 1 - cosine."""
    size = len(near)
    wide = reciprocal_keys(near, k1)
    narrow = reciprocal_keys(near, round(k1 / 2))
    counts = (narrow // size).bincount(minlength=size)
    starts = counts.cumsum(0) - counts
    keys = [wide]
    for part in wide.split(step_within(k1 // 2 + 1, ENTRIES)):
        # A member's narrow neighbourhood joins the row where two thirds of it are in the wide one.
        member = part % size
        edge, place = runs(starts[member], counts[member])
        candidates = part[edge] // size * size + narrow[place] % size
        is_shared = is_among(candidates, wide).double()
        shared = torch.zeros(len(part), dtype=torch.float64, device=part.device).index_add_(0, edge, is_shared)
        joins = 3 * shared > 2 * counts[member]
        keys.append(candidates[joins[edge]].unique())
    return with_weights(torch.cat(keys).unique(), Scores(everyone), size)


def with_weights(keys: torch.Tensor, scores: Scores, size: int) -> SparseRows:
    """exp(cosine - 1) for the pairs of `keys`, each row scaled to sum 1."""
    row = keys // size
    column = keys % size
    cosines = []
    for part in slices_of(len(keys), ENTRIES):
        cosines.append(scores.close_pairs(row[part], column[part, None])[:, 0])
    values = torch.cat(cosines).sub_(1).exp_()
    total = torch.zeros(size, device=values.device).index_add_(0, row, values)
    return SparseRows(keys, values / total[row], size)


def averaged(vectors: SparseRows, near: torch.Tensor) -> SparseRows:
    """Each row the mean of the rows of vectors at its positions near (N, n), eq. 11."""
    count = near.shape[1]
    if count == 1:
        return vectors
    keys = []
    values = []
    # So many rows at a time that their entries stay within bounds, however many each has.
    most_entries = int(vectors.counts.max()) * count
    for rows in torch.arange(len(near), device=near.device).split(step_within(most_entries, ENTRIES)):
        owner, column, value = vectors.entries(near[rows].flatten())
        key = rows[owner // count] * vectors.size + column
        key, place = key.unique(return_inverse=True)
        keys.append(key)
        values.append(torch.zeros(len(key), device=key.device).index_add_(0, place, value) / count)
    return SparseRows(torch.cat(keys), torch.cat(values), vectors.size)


def jaccard_distances(vectors: SparseRows, queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Eq. 10 for each of the positions queries (Q,) with its own positions items (Q, K): (Q, K) float32.

    Rows of vectors sum to 1, so Σ max = 2 - Σ min.
    """
    width = items.shape[1]
    shared = torch.zeros(items.shape, device=items.device)
    most_entries = max(int(vectors.counts.max()) * width, vectors.size)
    # Some queries' rows at a time are made dense, to be looked up by column, and cleared again.
    dense = torch.zeros(step_within(most_entries, ENTRIES), vectors.size, device=items.device)
    for part in slices_of(len(queries), len(dense)):
        owner, column, value = vectors.entries(queries[part])
        dense[owner, column] = value
        pair, item_column, item_value = vectors.entries(items[part].flatten())
        least = torch.minimum(dense[pair // width, item_column], item_value)
        sums = torch.zeros(items[part].numel(), device=least.device).index_add_(0, pair, least)
        shared[part] = sums.view(-1, width)
        dense[owner, column] = 0
    return 1 - shared / (2 - shared)
