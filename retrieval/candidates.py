"""The best fast scores so far, kept until exact ones decide."""

import math

import torch

from core.slices import CACHED_NUMBERS, slices_within
from retrieval.blocks import products
from retrieval.query_gallery import QueryGallery
from retrieval.scores import RUN, Scores

GROUP = 32  # scores are looked through by the greatest of so many
NOWHERE = -1  # fills the places behind the last item of a query that can find fewer than k
MORE, ROOM = 16, 24  # candidates kept beyond k, and room for new ones before the worst are dropped
MOST_UNSURE = 1 / 3  # of candidates; where it is more, all are scored closely before some are exactly
MOST_AGAIN = 4  # one in so many queries is looked for a second time in one go
COPIED_ROWS = 1024  # rows whose scores are copied at once
NO_ROW = 2**32 - 1  # the row that a packed key has where there is none
LAST_KEY = 2**63 - 1  # sorts behind every packed key


def kept_candidates(k: int, dtype: torch.dtype) -> int:
    """Candidates to keep for k: bfloat16 leaves more of them in doubt."""
    if dtype == torch.bfloat16:
        return k + MORE + k // 2
    return k + MORE


class Candidates:
    """The best fast scores so far of some queries, more than k of each, so that rounding hides none of the k nearest.

    values (m, room) float32 and positions (m, room) int32 in the gallery, of which each row's first `filled` are in
    use; `floor` (m,): scores no better than this were dropped.
    """

    def __init__(self, query_gallery: QueryGallery, scores: Scores, queries: torch.Tensor, k: int, dtype: torch.dtype):
        self.query_gallery = query_gallery
        self.scores = scores
        self.queries = queries
        self.k = k
        self.dtype = dtype
        device = query_gallery.device
        self.kept = min(kept_candidates(k, dtype), len(query_gallery.gallery_rows))
        # Room beyond those kept, so that the worst are dropped once in a while and not at each block.
        size = (len(queries), self.kept + ROOM)
        self.values = torch.full(size, -math.inf, device=device)
        self.positions = torch.full(size, NOWHERE, dtype=torch.int32, device=device)
        self.filled = torch.zeros(len(queries), dtype=torch.int64, device=device)
        self.floor = torch.full((len(queries),), -math.inf, device=device)
        self.self_positions = query_gallery.self_positions()
        # Those that were looked for a second time, and which number a query has there.
        self.again = None
        self.number_again = torch.full_like(self.filled, NOWHERE)

    def collect(self, memory: int, guess: bool) -> None:
        """Look at all scores. Within one-against-rest the queries' own square is symmetric.

        guess: choose the first floor from the first block, a random sample, such that about as many items as are wanted
        will be above it. A guess too high shows in `nearest`.
        """
        self.guess = guess
        device = self.queries.device
        gallery_size = len(self.query_gallery.gallery_rows)
        # In an order of its own, lest a sorted gallery make the first block no sample at all.
        shuffled = torch.randperm(gallery_size, generator=torch.Generator().manual_seed(0)).to(device)
        numbers = torch.arange(len(self.queries), device=device)
        if self.query_gallery.one_against_rest and len(numbers) > 1:
            is_query = torch.isin(shuffled, self.queries)
            number_of = torch.full((gallery_size,), NOWHERE, device=device)
            number_of[self.queries] = numbers
            numbers = number_of[shuffled[is_query]]
            self._sweep(numbers, shuffled[is_query], memory, symmetric=True)
            self._sweep(numbers, shuffled[~is_query], memory, symmetric=False)
        else:
            self._sweep(numbers, shuffled, memory, symmetric=False)
        if guess:
            self._look_again(memory)

    def _look_again(self, memory: int) -> None:
        """Collect anew, with nothing guessed, for those whose guessed floor was too high: all in one sweep."""
        hidden = []
        for part in slices_within(len(self.queries), 16 * self.kept, CACHED_NUMBERS):
            _, _, is_hidden = self._best(part)
            hidden.append(is_hidden)
        # As many as there is memory for; what is left is looked for when it is asked for.
        most = len(self.queries) // MOST_AGAIN + COPIED_ROWS
        hidden = torch.cat(hidden).nonzero().flatten()[:most]
        self.number_again[hidden] = torch.arange(len(hidden), device=hidden.device)
        if len(hidden):
            self.again = Candidates(self.query_gallery, self.scores, self.queries[hidden], self.k, self.dtype)
            self.again.collect(memory, guess=False)

    def _sweep(self, numbers: torch.Tensor, gallery: torch.Tensor, memory: int, symmetric: bool) -> None:
        """Add all scores of the queries with these numbers (n,) against gallery positions (g,)."""
        for block in products(self.scores, self.queries[numbers], gallery, self.dtype, memory, symmetric):
            asking = numbers[block.rows]
            answering = gallery[block.columns]
            self._hide(block.scores, self.queries[asking], answering)
            self._add(block.scores, 1, asking, answering)
            if block.mirrored:
                self._add(block.scores, 0, numbers[block.columns], gallery[block.rows])

    def _hide(self, scores: torch.Tensor, queries: torch.Tensor, gallery: torch.Tensor) -> None:
        """Set to -infinity what a query must not find: itself, and items of its sequence."""
        # Each query is at most one of these items: it is looked up, not compared with all.
        order = gallery.argsort()
        itself = self.self_positions[queries]
        place = order[torch.searchsorted(gallery[order], itself).clamp_max(len(gallery) - 1)]
        is_here = (gallery[place] == itself).nonzero().flatten()
        scores[is_here, place[is_here]] = -math.inf
        if self.query_gallery.query_sequences is not None:
            query_sequences = self.query_gallery.query_sequences[queries]
            gallery_sequences = self.query_gallery.gallery_sequences[gallery]
            if torch.isin(query_sequences, gallery_sequences).any():
                scores.masked_fill_(query_sequences[:, None] == gallery_sequences, -math.inf)

    def _add(self, scores: torch.Tensor, axis: int, numbers: torch.Tensor, gallery: torch.Tensor) -> None:
        """Add a block's scores, items of `gallery` along `axis`, for the queries with these numbers (n,)."""
        if not self.filled[numbers].any():
            self._begin(scores, axis, numbers, gallery)
            return
        # The first block has set a floor, and few scores of later ones are above it.
        row, column, value = above_floor(scores, axis, self.floor[numbers])
        room = self.values.shape[1]
        used = self.filled[numbers]
        crowded = (used + row.bincount(minlength=len(numbers)) > room).nonzero().flatten()
        if len(crowded):
            # Drop the worst of what they have; the floor rises, and some of the new scores are below it now.
            chosen = numbers[crowded]
            self._keep(chosen, self.values[chosen], self.positions[chosen])
            is_better = value > self.floor[numbers][row]
            row, column, value = row[is_better], column[is_better], value[is_better]
            is_crowded = self.filled[chosen] + row.bincount(minlength=len(numbers))[crowded] > room
            crowded = crowded[is_crowded]
            # Where a block alone holds more than there is room for, it is sorted as a whole.
            if len(crowded):
                self._merge(scores, axis, crowded, numbers[crowded], gallery)
                is_other = ~torch.isin(row, crowded)
                row, column, value = row[is_other], column[is_other], value[is_other]
        # New scores come ordered by row: each goes behind those that its row has, in the next free slot.
        counts = row.bincount(minlength=len(numbers))
        number_in_row = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        slot = numbers[row] * room + self.filled[numbers][row] + number_in_row
        self.values.view(-1)[slot] = value
        self.positions.view(-1)[slot] = gallery[column].int()
        self.filled[numbers] += counts

    def _begin(self, scores: torch.Tensor, axis: int, numbers: torch.Tensor, gallery: torch.Tensor) -> None:
        """Take the best of the first block of scores."""
        gallery_size = len(self.query_gallery.gallery_rows)
        wanted = self.kept
        if self.guess and len(gallery) < gallery_size:
            # As many as a sample of this size holds of the best, and three standard deviations more.
            expected = self.kept * len(gallery) / gallery_size
            wanted = math.ceil(expected + 3 * math.sqrt(expected))
        value, column = greatest(scores, axis, min(wanted, self.kept, len(gallery)))
        self.values[numbers, : value.shape[1]] = value
        self.positions[numbers, : value.shape[1]] = gallery[column].int()
        self.filled[numbers] = (value > -math.inf).sum(1)
        if value.shape[1] < len(gallery):
            self.floor[numbers] = value[:, -1]

    def _merge(
        self, scores: torch.Tensor, axis: int, places: torch.Tensor, numbers: torch.Tensor, gallery: torch.Tensor
    ) -> None:
        """Keep the best of what some queries have and of all their scores in a block, at its `places` (n,)."""
        k = min(self.kept, len(gallery))
        for place, number in zip(places.split(COPIED_ROWS), numbers.split(COPIED_ROWS)):
            value, column = greatest(scores.index_select(1 - axis, place), axis, k)
            value = torch.cat([self.values[number], value], dim=1)
            position = torch.cat([self.positions[number], gallery[column].int()], dim=1)
            self._keep(number, value, position)

    def _keep(self, numbers: torch.Tensor, value: torch.Tensor, position: torch.Tensor) -> None:
        """Leave the queries with these numbers the best of some candidates (n, c); the worst of them is the floor."""
        value, chosen = value.topk(self.kept, dim=1)
        self.values[numbers, : self.kept] = value
        self.values[numbers, self.kept :] = -math.inf
        self.positions[numbers, : self.kept] = position.gather(1, chosen)
        self.filled[numbers] = (value > -math.inf).sum(1)
        self.floor[numbers] = self.floor[numbers].maximum(value[:, -1])

    def nearest(self, part: slice, memory: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and scores (n, k) of the queries numbered by the slice `part`, ordered by exact scores."""
        return unpack(self._best_keys(part, memory))

    def _best(self, part: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Fast scores and positions (n, kept), best first, and whether something dropped may be nearer (n,) bool."""
        queries = self.queries[part]
        value, chosen = self.values[part].topk(self.kept + 1, dim=1)
        # What comes behind the candidates kept is dropped here, so it counts as the floor, too.
        floor = self.floor[part].maximum(value[:, -1])
        value = value[:, :-1]
        position = self.positions[part].long().gather(1, chosen[:, :-1])
        position.masked_fill_(value == -math.inf, NOWHERE)

        # Something dropped may belong to the k nearest where the ranges of the floor and of the k-th value overlap.
        query_errors = self.scores.rounding_errors("query", self.dtype)[queries]
        gallery_error = self.scores.gallery_error(self.dtype)
        least, _ = self.scores.exact_range(value[:, self.k - 1], query_errors, gallery_error, self.dtype)
        _, most = self.scores.exact_range(floor, query_errors, gallery_error, self.dtype)
        return value, position, (most >= least) & (floor > -math.inf)

    def _best_keys(self, part: slice | torch.Tensor, memory: int) -> torch.Tensor:
        queries = self.queries[part]
        value, position, is_hidden = self._best(part)
        # All are ordered by what they have, and those with something hidden once more.
        keys = self._ordered(queries, value, position)
        number = self.number_again[part]
        found_again = (number != NOWHERE).nonzero().flatten()
        if len(found_again):
            keys[found_again] = self.again._best_keys(number[found_again], memory)
        hidden = (is_hidden & (number == NOWHERE)).nonzero().flatten()
        if len(hidden) and self.guess:
            again = Candidates(self.query_gallery, self.scores, queries[hidden], self.k, self.dtype)
            again.collect(memory, guess=False)
            keys[hidden] = again._best_keys(slice(None), memory)
        elif len(hidden):
            keys[hidden] = self._ordered_exactly(queries[hidden], memory)
        return keys

    def _ordered(self, queries: torch.Tensor, value: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Keys (n, k) of candidates (n, c), best first, those too close to call scored exactly."""
        terms = None
        # Scores summed in short runs are nearer to the exact ones and cheaper than these; they settle most doubts.
        if self.dtype != torch.float32 or self._unsure(queries, value, position).double().mean() > MOST_UNSURE:
            value = self.scores.close_pairs(queries, position.clamp_min(0))
            value = value.masked_fill_(position == NOWHERE, -math.inf)
            value, order = value.sort(1, descending=True)
            position = position.gather(1, order)
            terms = RUN
        row, column = self._unsure(queries, value, position, terms).nonzero(as_tuple=True)
        score = self.scores.from_fast_units(value)
        score[row, column] = self.scores.exact_pairs(queries[row], position[row, column])
        return pack(score, self._table_rows(position)).sort(1).values[:, : self.k]

    def _unsure(
        self, queries: torch.Tensor, value: torch.Tensor, position: torch.Tensor, terms: int | None = None
    ) -> torch.Tensor:
        """(n, c) bool: candidates, best first, whose float32 values cannot tell their order among the first k."""
        error = self.scores.rounding_errors("query", torch.float32)[queries, None]
        gallery_error = self.scores.gallery_error(torch.float32)
        low, high = self.scores.exact_range(value, error, gallery_error, torch.float32, terms)
        is_close = low[:, :-1] <= high[:, 1:]
        is_close[:, self.k :] &= high[:, self.k + 1 :] >= low[:, self.k - 1 : self.k]  # only k of them are wanted
        # Both of two neighbours too close to call are scored exactly.
        unsure = torch.zeros_like(value, dtype=torch.bool)
        unsure[:, 1:] |= is_close
        unsure[:, :-1] |= is_close
        return unsure & (position != NOWHERE)

    def _ordered_exactly(self, queries: torch.Tensor, memory: int) -> torch.Tensor:
        """Keys (n, k) from exact scores of all items: for queries with many equal or nearly equal candidates."""
        gallery = torch.arange(len(self.query_gallery.gallery_rows), device=queries.device)
        keys = torch.full((len(queries), self.k), LAST_KEY, device=queries.device)
        for block in products(self.scores, queries, gallery, torch.float64, memory):
            answering = gallery[block.columns]
            self._hide(block.scores, queries[block.rows], answering)
            new = pack(block.scores, self._table_rows(answering).expand_as(block.scores))
            keys[block.rows] = torch.cat([keys[block.rows], new], dim=1).topk(self.k, dim=1, largest=False).values
        return keys.sort(1).values

    def _table_rows(self, positions: torch.Tensor) -> torch.Tensor:
        return self.query_gallery.gallery_rows[positions.clamp_min(0)].where(positions != NOWHERE, NOWHERE)


def greatest(scores: torch.Tensor, axis: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k greatest scores along `axis` and where they stand, (n, k) each."""
    by_row = scores if axis == 1 else scores.T
    values = []
    columns = []
    for part in by_row.split(COPIED_ROWS):
        value, column = part.float().contiguous().topk(k, dim=1)
        values.append(value)
        columns.append(column)
    return torch.cat(values), torch.cat(columns)


def above_floor(
    scores: torch.Tensor, axis: int, floor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores above floor (n,) along `axis`: (row, column, value), ordered by row; columns count along `axis`."""
    missing = -scores.shape[axis] % GROUP
    if missing:
        filling = (0, missing) if axis == 1 else (0, 0, 0, missing)
        scores = torch.nn.functional.pad(scores, filling, value=-math.inf)
    # Few scores are above, so the greatest of each group is looked at first.
    groups = scores.unflatten(axis, (-1, GROUP))
    if axis == 1:
        row, group = (groups.amax(2) > floor[:, None]).nonzero(as_tuple=True)
        values = groups[row, group]
    else:
        row, group = (groups.amax(1) > floor).T.nonzero(as_tuple=True)
        values = groups[group, :, row]
    pair, lane = (values > floor[row, None]).nonzero(as_tuple=True)
    return row[pair], group[pair] * GROUP + lane, values[pair, lane].float()


def pack(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Scores and rows as int64 that sort by falling score, then by rising row; -infinity loses its row."""
    # Bits of floats are in order as whole numbers once those of negative ones are turned round.
    bits = (scores + 0.0).view(torch.int32)  # adding zero turns -0 into 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    rows = rows.masked_fill(scores == -math.inf, NO_ROW)
    return (~ordered).long() << 32 | rows & NO_ROW


def unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, scores) of packed keys."""
    ordered = ~(keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    rows = keys & NO_ROW
    return rows.masked_fill(scores == -math.inf, NOWHERE), scores
