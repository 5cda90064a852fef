"""The best fast scores so far, kept until exact ones decide."""

import math

import torch

from retrieval.blocks import products
from retrieval.scores import CHUNK

GROUP = 32  # scores are looked through by the greatest of so many
NOWHERE = -1  # fills the places behind the last item of a query that can find fewer than k
MORE, ROOM = 16, 24  # candidates kept beyond k, and room for new ones before the worst are dropped
MOST_UNSURE = 1 / 3  # of candidates; where it is more, all are scored closely before some are exactly
TURNED = 1024  # rows whose scores are copied at once


def kept_candidates(k, dtype):
    """Candidates to keep for k: bfloat16 leaves more of them in doubt."""
    return k + MORE + (k // 2 if dtype == torch.bfloat16 else 0)


class Candidates:
    """The best fast scores so far of some queries, more than k of each, so that rounding hides none of the k nearest.

    values (m, room) float32 and places (m, room) int32 in the gallery, of which each row's first `filled` are in use;
    `floor` (m,): scores no better than this were dropped.
    """

    def __init__(self, task, space, queries, k, dtype):
        self.task, self.space, self.queries, self.k, self.dtype = task, space, queries, k, dtype
        self.kept = min(kept_candidates(k, dtype), len(task.gallery_rows))
        size, device = (len(queries), self.kept + ROOM), task.device
        self.values = torch.full(size, -math.inf, device=device)
        self.places = torch.full(size, NOWHERE, dtype=torch.int32, device=device)
        self.filled = torch.zeros(len(queries), dtype=torch.int64, device=device)
        self.floor = torch.full((len(queries),), -math.inf, device=device)
        self.own = task.own_places()

    def collect(self, memory, guess):
        """Look at all scores. Within one-against-rest the queries' own square is symmetric.

        guess: choose the first floor from the first block, a random sample, such that about as many items as are wanted
        will be above it. A guess too high shows in `nearest`.
        """
        self.guess = guess
        total = len(self.task.gallery_rows)
        shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(0)).to(self.queries.device)
        queries, gallery = torch.arange(len(self.queries), device=self.queries.device), shuffled
        sweeps = [(queries, gallery, False)]
        if self.task.one_against_rest and len(queries) > 1:
            inside = torch.isin(shuffled, self.queries)
            place = torch.full((total,), NOWHERE, device=shuffled.device)
            place[self.queries] = queries
            queries = place[shuffled[inside]]
            sweeps = [(queries, shuffled[inside], True), (queries, shuffled[~inside], False)]
        for queries, gallery, symmetric in sweeps:
            for block in products(self.space, self.queries[queries], gallery, self.dtype, memory, symmetric):
                rows, columns = queries[block.rows], gallery[block.columns]
                self._hide(block.scores, self.queries[rows], columns)
                self._add(block.scores, 1, rows, columns)
                if block.twice:
                    self._add(block.scores, 0, queries[block.columns], gallery[block.rows])

    def _hide(self, scores, queries, gallery):
        """Set to -infinity what a query must not find: itself, and items of its sequence."""
        order = gallery.argsort()
        own = torch.searchsorted(gallery[order], self.own[queries]).clamp_max(len(gallery) - 1)
        itself = (gallery[order[own]] == self.own[queries]).nonzero().flatten()
        scores[itself, order[own[itself]]] = -math.inf
        if self.task.query_sequences is not None:
            asked, found = self.task.query_sequences[queries], self.task.gallery_sequences[gallery]
            if torch.isin(asked, found).any():
                scores.masked_fill_(asked[:, None] == found, -math.inf)

    def _add(self, scores, axis, rows, gallery):
        """Add a block's scores, items of `gallery` along `axis`, for the queries numbered `rows` (n,)."""
        if not self.filled[rows].any():
            self._begin(scores, axis, rows, gallery)
            return
        row, column, value = rows_above(scores, axis, self.floor[rows])
        room, used = self.values.shape[1], self.filled[rows]
        crowded = (used + row.bincount(minlength=len(rows)) > room).nonzero().flatten()
        if len(crowded):
            self._keep(rows[crowded], self.values[rows[crowded]], self.places[rows[crowded]])
            better = value > self.floor[rows][row]
            row, column, value = row[better], column[better], value[better]
            crowded = crowded[self.filled[rows[crowded]] + row.bincount(minlength=len(rows))[crowded] > room]
            if len(crowded):
                self._merge(scores, axis, crowded, rows[crowded], gallery)
                others = ~torch.isin(row, crowded)
                row, column, value = row[others], column[others], value[others]
        counts = row.bincount(minlength=len(rows))
        number = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        slot = rows[row] * room + self.filled[rows][row] + number
        self.values.view(-1)[slot] = value
        self.places.view(-1)[slot] = gallery[column].int()
        self.filled[rows] += counts

    def _begin(self, scores, axis, rows, gallery):
        """Take the best of the first block of scores."""
        total = len(self.task.gallery_rows)
        expected = self.kept * len(gallery) / total
        first = math.ceil(expected + 3 * math.sqrt(expected)) if self.guess and len(gallery) < total else self.kept
        value, column = top_rows(scores, axis, min(first, self.kept, len(gallery)))
        self.values[rows, : value.shape[1]] = value
        self.places[rows, : value.shape[1]] = gallery[column].int()
        self.filled[rows] = (value > -math.inf).sum(1)
        if value.shape[1] < len(gallery):
            self.floor[rows] = value[:, -1]

    def _merge(self, scores, axis, places, rows, gallery):
        """Keep the best of what `rows` have and of their whole share of a block, which stands at its `places`."""
        for part, row in zip(places.split(TURNED), rows.split(TURNED)):
            value, column = top_rows(scores.index_select(1 - axis, part), axis, min(self.kept, len(gallery)))
            value = torch.cat([self.values[row], value], dim=1)
            place = torch.cat([self.places[row], gallery[column].int()], dim=1)
            self._keep(row, value, place)

    def _keep(self, rows, value, place):
        """Fill `rows` with the best of some candidates; the worst of them becomes the floor."""
        value, chosen = value.topk(self.kept, dim=1)
        self.values[rows, : self.kept], self.values[rows, self.kept :] = value, -math.inf
        self.places[rows, : self.kept] = place.gather(1, chosen)
        self.filled[rows] = (value > -math.inf).sum(1)
        self.floor[rows] = self.floor[rows].maximum(value[:, -1])

    def nearest(self, part, memory):
        """Rows and scores (n, k) of the queries in the slice `part`, ordered by exact scores."""
        return unpack(self._keys(part, memory))

    def _keys(self, part, memory):
        queries = self.queries[part]
        value, chosen = self.values[part].topk(self.kept + 1, dim=1)
        floor = self.floor[part].maximum(value[:, -1])  # what comes behind the candidates kept is dropped here
        value, place = value[:, :-1], self.places[part].long().gather(1, chosen[:, :-1])
        place.masked_fill_(value == -math.inf, NOWHERE)
        errors = self.space.rounding_errors("query", self.dtype)[queries], self.space.gallery_error(self.dtype)
        least, _ = self.space.exact_range(value[:, self.k - 1], *errors, self.dtype)
        _, most = self.space.exact_range(floor, *errors, self.dtype)
        hidden = ((most >= least) & (floor > -math.inf)).nonzero().flatten()
        key = self._ordered(queries, value, place)
        if len(hidden) and self.guess:
            again = Candidates(self.task, self.space, queries[hidden], self.k, self.dtype)
            again.collect(memory, guess=False)
            key[hidden] = again._keys(slice(None), memory)
        elif len(hidden):
            key[hidden] = self._ordered_exactly(queries[hidden], memory)
        return key

    def _ordered(self, queries, value, place):
        """Keys (n, k) of candidates (n, c), best first, those too close to call scored exactly."""
        terms = None
        if self.dtype != torch.float32 or self._unsure(queries, value, place).double().mean() > MOST_UNSURE:
            value = self.space.close_pairs(queries, place.clamp_min(0)).masked_fill_(place == NOWHERE, -math.inf)
            value, order = value.sort(1, descending=True)
            place, terms = place.gather(1, order), CHUNK
        row, column = self._unsure(queries, value, place, terms).nonzero(as_tuple=True)
        score = self.space.slow_units(value)
        score[row, column] = self.space.exact_pairs(queries[row], place[row, column])
        return pack(score, self._table_rows(place)).sort(1).values[:, : self.k]

    def _unsure(self, queries, value, place, terms=None):
        """(n, c) bool: candidates, best first, whose float32 values cannot tell their order among the first k."""
        error = self.space.rounding_errors("query", torch.float32)[queries, None]
        gallery_error = self.space.gallery_error(torch.float32)
        low, high = self.space.exact_range(value, error, gallery_error, torch.float32, terms)
        close = low[:, :-1] <= high[:, 1:]
        close[:, self.k :] &= high[:, self.k + 1 :] >= low[:, self.k - 1 : self.k]  # only k of them are wanted
        unsure = torch.zeros_like(value, dtype=torch.bool)
        unsure[:, 1:] |= close
        unsure[:, :-1] |= close
        return unsure & (place != NOWHERE)

    def _ordered_exactly(self, queries, memory):
        """Keys (n, k) from exact scores of all items: for queries with many equal or nearly equal candidates."""
        everyone = torch.arange(len(self.task.gallery_rows), device=queries.device)
        key = torch.full((len(queries), self.k), torch.iinfo(torch.int64).max, device=queries.device)
        for block in products(self.space, queries, everyone, torch.float64, memory):
            gallery = everyone[block.columns]
            self._hide(block.scores, queries[block.rows], gallery)
            new = pack(block.scores, self._table_rows(gallery).expand_as(block.scores))
            key[block.rows] = torch.cat([key[block.rows], new], dim=1).topk(self.k, dim=1, largest=False).values
        return key.sort(1).values

    def _table_rows(self, places):
        return self.task.gallery_rows[places.clamp_min(0)].where(places != NOWHERE, NOWHERE)


def top_rows(scores, axis, k):
    """The k greatest scores along `axis` and where they stand, (n, k) each."""
    parts = (scores if axis else scores.T).split(TURNED)
    values, columns = zip(*(part.float().contiguous().topk(k, dim=1) for part in parts))
    return torch.cat(values), torch.cat(columns)


def rows_above(scores, axis, floor):
    """Scores above floor (n,) along `axis`: (row, column, value), ordered by row; columns count along `axis`."""
    short = -scores.shape[axis] % GROUP
    if short:
        filling = (0, short) if axis else (0, 0, 0, short)
        scores = torch.nn.functional.pad(scores, filling, value=-math.inf)
    groups = scores.unflatten(axis, (-1, GROUP))
    if axis:
        row, group = (groups.amax(2) > floor[:, None]).nonzero(as_tuple=True)
        values = groups[row, group]
    else:
        row, group = (groups.amax(1) > floor).T.nonzero(as_tuple=True)
        values = groups[group, :, row]
    pair, lane = (values > floor[row, None]).nonzero(as_tuple=True)
    return row[pair], group[pair] * GROUP + lane, values[pair, lane].float()


def pack(scores, rows):
    """Scores and rows as int64 that sort by falling score, then by rising row; -infinity loses its row."""
    bits = (scores + 0.0).view(torch.int32)  # adding zero turns -0 into 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    rows = rows.masked_fill(scores == -math.inf, 2**32 - 1)
    return (~ordered).long() << 32 | rows & 0xFFFFFFFF


def unpack(keys):
    """(rows, scores) of packed keys."""
    ordered = ~(keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    rows = keys & 0xFFFFFFFF
    return rows.masked_fill(scores == -math.inf, NOWHERE), scores
