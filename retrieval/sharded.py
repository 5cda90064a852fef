"""A gallery cut over several ranks, each of which keeps its part: queries travel, and what the parts find is merged.

No rank ever has the embeddings of all. Every search and count is exact within a part, scores are the same numbers
wherever they are made (retrieval/space.py), and equal ones go by the row in the whole list: so figures are those of one
process that has everything, whatever the parts are.
"""

from dataclasses import replace

import torch

from retrieval.best_positive import MEMORY, positive_ranks
from retrieval.candidates import NOWHERE, pack, unpack
from retrieval.query_gallery import places_among
from retrieval.rows import Frame, lengths_of, pieces, refuse_broken
from retrieval.scores import Scores
from retrieval.topk import search_in_parts


class Shard:
    """One rank's part of the embeddings of a list, and how it is searched together with the others.

    embeddings (n, D), rows (n,) int64: which rows of the list they are, rising; n may be 0. number: rows of the list;
    ranks: how many have a part; gather, total, highest: functions from a tensor to its rows (n, ...) one rank's behind
    the other's, its sum and its maximum over the ranks. All ranks have to call each method, in the same order, with the
    same arguments. `lengths` (n,), `frame`: see Space. Raises InputError for NaN and infinite embeddings on all ranks.
    """

    @torch.no_grad()
    def __init__(self, embeddings, rows, number, ranks, gather, total, highest):
        self.embeddings, self.rows, self.number, self.ranks = embeddings, rows, number, ranks
        self.gather, self.total, self.highest = gather, total, highest
        self.lengths = lengths_of(embeddings)
        refuse_broken(gather(rows[~self.lengths.isfinite()]).sort().values, number)
        self.frame = Frame.of_all(embeddings, highest)

    def stand_in(self):
        """(N, D) zeros that take no memory: a table for a Task that tells who asks and who can be found in the list."""
        return self.embeddings.new_zeros(1, self.embeddings.shape[1]).expand(self.number, -1)

    @torch.no_grad()
    def search_in_parts(self, task, k, distance="cosine", memory=MEMORY):
        """search.search_in_parts in all shards: (queries, rows of the list, exact scores) of some queries at a time.

        task: of the whole list, around a `stand_in`.
        """
        k = min(k, len(task.gallery_rows))
        for queries, own in self._blocks(task, k, memory):
            keys = self.gather(self._keys(own, k, distance, memory // 2))
            yield queries, *unpack(merged(keys, self.ranks))

    @torch.no_grad()
    def positive_ranks(self, task, ks=None, distance="cosine", memory=MEMORY):
        """ranks.positive_ranks in all shards together, (Q,) float64; task: as of search_in_parts."""
        blocks = self._blocks(task, 0, memory)
        return torch.cat([positive_ranks(own, ks, distance, memory // 2, shard=self) for _, own in blocks])

    def _blocks(self, task, k, memory):
        """Yield (slice of the queries, Task of these against this shard), k keys of each being asked for."""
        places = places_among(self.rows, task.gallery_rows)
        here = places != NOWHERE
        columns = {name: getattr(task, name) for name in ("gallery_labels", "gallery_sequences")}
        gallery = {name: None if column is None else column[here] for name, column in columns.items()}
        gallery |= {"gallery_table": self.embeddings, "gallery_rows": places[here]}
        for part in pieces(len(task.query_rows), self.embeddings.shape[1] + 4 * k * self.ranks, memory // 64):
            asking = task.query_slice(part)
            table, own_rows = self._table(asking.query_rows), places_among(self.rows, asking.own_rows)
            numbers = torch.arange(len(table), device=table.device)
            yield part, replace(asking, query_table=table, query_rows=numbers, own_rows=own_rows, **gallery)

    def _table(self, rows):
        """The embeddings of some rows of the list, (m, D), from the shards that have them."""
        places = places_among(self.rows, rows)
        here = places != NOWHERE
        return self.gather(self.embeddings[places[here]])[self.gather(rows[here]).argsort()]

    def _keys(self, task, k, distance, memory):
        """(m, k) int64: the nearest in this shard with their exact scores, as `pack` makes them."""
        scores = torch.full((len(task.query_rows), k), -torch.inf, device=task.device)
        rows = torch.full(scores.shape, NOWHERE, device=task.device)
        if len(task.gallery_rows):
            known = {"gallery_lengths": self.lengths, "frame": self.frame}
            found = torch.cat([found for _, found, _ in search_in_parts(task, k, distance, memory, **known)])
            query, column = (found != NOWHERE).nonzero(as_tuple=True)
            row, space = found[query, column], Scores(task, distance, **known)
            scores[query, column] = space.exact_pairs(query, places_among(task.gallery_rows, row))
            rows[query, column] = self.rows[row]
        return pack(scores, rows)


def merged(keys, parts):
    """The best k keys of each query, (m, k), from those of several parts, (parts * m, k), one part behind the other."""
    candidates = keys.unflatten(0, (parts, -1)).transpose(0, 1).flatten(1)
    return candidates.sort(1).values[:, : keys.shape[1]]
