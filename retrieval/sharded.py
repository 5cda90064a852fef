"""A gallery cut over several ranks, each of which keeps its rows: queries travel, and what the ranks find is merged.

No rank ever has the embeddings of all. Every search and count is exact within a shard, scores are the same numbers
wherever they are made (retrieval/exact.py), and equal ones go by the row in the whole list: so figures are those of one
process that has everything, however the rows are shared out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from core.slices import MEMORY, slices_within
from retrieval.best_positive import positive_ranks
from retrieval.candidates import NOWHERE, pack, unpack
from retrieval.plain import refuse_not_finite
from retrieval.query_gallery import QueryGallery, positions_among
from retrieval.rows import Frame, euclidean_lengths
from retrieval.scores import Scores
from retrieval.topk import search_in_parts

Collective = Callable[[torch.Tensor], torch.Tensor]


class GalleryShard:
    """One rank's rows of a list's embeddings, and how they are searched together with those of the others.

    embeddings (n, D), rows (n,) int64: which rows of the list they are, rising; n may be 0. list_size: rows of the
    list; world_size: how many ranks have a shard; all_gather, all_reduce_sum, all_reduce_max: functions from a tensor
    to its rows (n, ...) one rank's behind the other's, its sum and its maximum over the ranks. All ranks have to call
    each method, in the same order, with the same arguments. `lengths` (n,), `frame`: see Scores. Raises InputError for
    NaN and infinite embeddings on all ranks.
    """

    @torch.no_grad()
    def __init__(
        self,
        embeddings: torch.Tensor,
        rows: torch.Tensor,
        list_size: int,
        world_size: int,
        all_gather: Collective,
        all_reduce_sum: Collective,
        all_reduce_max: Collective,
    ):
        self.embeddings = embeddings
        self.rows = rows
        self.list_size = list_size
        self.world_size = world_size
        self.all_gather = all_gather
        self.all_reduce_sum = all_reduce_sum
        self.all_reduce_max = all_reduce_max
        self.lengths = euclidean_lengths(embeddings)
        # All ranks raise together, or the others would wait for one that is gone.
        broken_rows = all_gather(rows[~self.lengths.isfinite()]).sort().values
        refuse_not_finite(broken_rows, list_size)
        self.frame = Frame.of_all(embeddings, all_reduce_max)

    def placeholder(self) -> torch.Tensor:
        """(N, D) zeros that take no memory, in the place of the whole list's embeddings.

        A QueryGallery of them has the labels, flags and sequences of all rows, which every rank knows.
        """
        return self.embeddings.new_zeros(1, self.embeddings.shape[1]).expand(self.list_size, -1)

    @torch.no_grad()
    def search_in_parts(
        self, query_gallery: QueryGallery, k: int, distance: str = "cosine", memory: int = MEMORY
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """topk.search_in_parts in all shards: (queries, rows of the list, exact scores) of some queries at a time.

        query_gallery: of the whole list, around a `placeholder`.
        """
        k = min(k, len(query_gallery.gallery_rows))
        for queries, local in self._local_parts(query_gallery, k, memory):
            keys = self.all_gather(self._nearest_keys(local, k, distance, memory // 2))
            yield queries, *unpack(merged_keys(keys, self.world_size))

    @torch.no_grad()
    def positive_ranks(
        self,
        query_gallery: QueryGallery,
        ks: Iterable[int] | None = None,
        distance: str = "cosine",
        memory: int = MEMORY,
    ) -> torch.Tensor:
        """best_positive.positive_ranks in all shards together, (Q,) float64; query_gallery: as of search_in_parts."""
        ranks = []
        for _, local in self._local_parts(query_gallery, 0, memory):
            ranks.append(positive_ranks(local, ks, distance, memory // 2, shard=self))
        return torch.cat(ranks)

    def _local_parts(self, query_gallery: QueryGallery, k: int, memory: int) -> Iterator[tuple[slice, QueryGallery]]:
        """Yield (slice of the queries, these against this shard's rows), k keys of each being asked for."""
        # Which of the list's gallery rows are here, and where.
        positions = positions_among(self.rows, query_gallery.gallery_rows)
        is_here = positions != NOWHERE
        gallery_labels = query_gallery.gallery_labels
        if gallery_labels is not None:
            gallery_labels = gallery_labels[is_here]
        gallery_sequences = query_gallery.gallery_sequences
        if gallery_sequences is not None:
            gallery_sequences = gallery_sequences[is_here]
        # A query travels with its embedding, and k keys of 8 bytes come back from each rank, sorted twice.
        numbers_each = self.embeddings.shape[1] + 4 * k * self.world_size
        for part in slices_within(len(query_gallery.query_rows), numbers_each, memory // 64):
            asking = query_gallery.query_slice(part)
            query_table = self._gathered_rows(asking.query_rows)
            yield (
                part,
                replace(
                    asking,
                    query_table=query_table,
                    gallery_table=self.embeddings,
                    query_rows=torch.arange(len(query_table), device=query_table.device),
                    gallery_rows=positions[is_here],
                    self_rows=positions_among(self.rows, asking.self_rows),
                    gallery_labels=gallery_labels,
                    gallery_sequences=gallery_sequences,
                ),
            )

    def _gathered_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The embeddings of some rows of the list, (m, D), from the shards that have them."""
        positions = positions_among(self.rows, rows)
        is_here = positions != NOWHERE
        embeddings = self.all_gather(self.embeddings[positions[is_here]])
        # They come ordered by rank; the rows that come with them say where they belong.
        order = self.all_gather(rows[is_here]).argsort()
        return embeddings[order]

    def _nearest_keys(self, local: QueryGallery, k: int, distance: str, memory: int) -> torch.Tensor:
        """(m, k) int64: the nearest in this shard with their exact scores, as `pack` makes them."""
        scores = torch.full((len(local.query_rows), k), -torch.inf, device=local.device)
        list_rows = torch.full(scores.shape, NOWHERE, device=local.device)
        if len(local.gallery_rows):
            found = search_in_parts(local, k, distance, memory, gallery_lengths=self.lengths, frame=self.frame)
            rows = torch.cat([part_rows for _, part_rows, _ in found])
            query, column = (rows != NOWHERE).nonzero(as_tuple=True)
            row = rows[query, column]
            # Only exact scores can be merged: fast ones depend on the blocks they were made in.
            exact = Scores(local, distance, gallery_lengths=self.lengths, frame=self.frame)
            scores[query, column] = exact.exact_pairs(query, positions_among(local.gallery_rows, row))
            list_rows[query, column] = self.rows[row]
        return pack(scores, list_rows)


def merged_keys(keys: torch.Tensor, shards: int) -> torch.Tensor:
    """The best k keys of each query, (m, k), from those of several shards, (shards * m, k), one behind the other."""
    # Keys sort by score, then by row, so a plain sort is the merge.
    candidates = keys.unflatten(0, (shards, -1)).transpose(0, 1).flatten(1)
    return candidates.sort(1).values[:, : keys.shape[1]]
