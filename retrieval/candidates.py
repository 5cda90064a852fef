"""The best fast scores so far, kept until exact ones decide."""

import math
import threading

import numpy as np
import torch

from core.slices import slices_of, slices_within
from core.threads import side_by_side
from retrieval.blocks import Block, Products, true_float32
from retrieval.product_type import in_order_, out_of_order
from retrieval.query_gallery import QueryGallery
from retrieval.scores import RUN, Scores

NOWHERE = -1  # fills the places behind the last item of a query that can find fewer than k
SAMPLE = (64, 8192)  # queries and items of the gallery that tell how much a type leaves in doubt
MORE, ROOM = 16, 24  # candidates kept beyond k, and room for new ones before the worst are dropped
ASKING = 4  # sorts of queries that are scored against more than k candidates, by how many more
MOST_AGAIN = 4  # one in so many queries is looked for a second time in one go
COPIED_ROWS = 1024  # rows whose scores are copied at once
KEY_BYTES = 8
NO_ROW = 2**32 - 1  # the row that a packed key has where there is none
EMPTY_KEY = 0x7F800000 << 32 | NO_ROW  # that of no row, whose score is -infinity; it sorts behind all others


def kept_candidates(scores: Scores, k: int, dtype: torch.dtype) -> int:
    """Candidates to keep for the k nearest, of a type that leaves more of them in doubt than float32.

    Some queries are scored against a sample of the gallery: how many more than k have a fast score that may be that of
    the k-th nearest.
    """
    gallery_size = len(scores.rows["gallery"])
    if dtype == torch.float32:
        return min(k + MORE, gallery_size)
    queries, gallery = (evenly(len(scores.rows[side]), most) for side, most in zip(("query", "gallery"), SAMPLE))
    left, right = (scores.factor(*rows, torch.float32) for rows in (("query", queries), ("gallery", gallery)))
    with true_float32(), torch.autocast(left.device.type, enabled=False):
        sample = left @ right.T
    wanted = max(1, k * len(gallery) // gallery_size)
    kth = sample.topk(wanted, dim=1).values[:, -1]
    errors = scores.rounding_errors("query", dtype)[queries, None]
    _, most = scores.exact_range(sample, errors, scores.gallery_error(dtype), dtype)
    # An eighth more of these, since queries differ.
    doubtful = (most >= kth[:, None]).sum().item() / (wanted * len(queries)) - 1
    return min(k + MORE + math.ceil(1.125 * doubtful * k), gallery_size)


def evenly(count: int, most: int) -> torch.Tensor:
    """Positions (n,), at most `most`, evenly spread among `count`."""
    return torch.arange(0, count, -(-count // most))


class Candidates:
    """The best fast scores so far of some queries, more than k of each, so that rounding hides none of the k nearest.

    keys (m, room) int64, as `pack` makes them of scores and positions in the gallery, of which each row's first
    `filled` are in use; `floor` (m,): scores no better than this were dropped. Once all scores were looked at, the
    first k are those of the nearest, of their exact scores and rows; `is_hidden` (m,): something dropped may be nearer.
    """

    def __init__(
        self,
        query_gallery: QueryGallery,
        scores: Scores,
        queries: torch.Tensor,
        k: int,
        dtype: torch.dtype,
        kept: int,
        memory: int,
    ):
        self.query_gallery = query_gallery
        self.scores = scores
        self.queries = queries
        self.k = k
        self.dtype = dtype
        device = query_gallery.device
        self.kept = kept
        # How far products may be off: of fast scores, and of close ones, which are in float32.
        self.errors = {}
        for product_type in {dtype, torch.float32}:
            errors = scores.rounding_errors("query", product_type), scores.gallery_error(product_type)
            self.errors[product_type] = errors
        # Room beyond those kept, so that the worst are dropped once in a while and not at each block.
        room = max(ROOM, min(self.kept, memory // (KEY_BYTES * len(queries)) - self.kept))
        self.keys = torch.full((len(queries), self.kept + room), EMPTY_KEY, device=device)
        self.filled = torch.zeros(len(queries), dtype=torch.int64, device=device)
        self.floor = torch.full((len(queries),), -math.inf, device=device)
        self.is_hidden = torch.zeros(len(queries), dtype=torch.bool, device=device)
        self.self_positions = query_gallery.self_positions()
        # Those that were looked for a second time, and which number a query has there.
        self.again = None
        self.number_again = torch.full_like(self.filled, NOWHERE)
        self.lock = threading.Lock()  # of keys, filled and floor, while threads look at blocks

    def collect(self, memory: int, guess: bool) -> None:
        """Look at all scores.

        guess: where blocks are looked at one by one, choose the first floor from the first one, a random sample, such
        that about as many items as are wanted will be above it. A guess too high shows in `is_hidden`.
        """
        device = self.queries.device
        if finds_best_of_rows(device):
            # Nothing is guessed; only a coarser type is a reason to look again.
            self.guess = guess and self.dtype != torch.float32
            self._sweep_rows(memory)
        else:
            self.guess = guess
            self._sweep_all(memory)
        side_by_side(self._settle, self.parts(), device)
        if self.guess:
            self._look_again(memory)

    def _sweep_rows(self, memory: int) -> None:
        """Keep the best of all scores of a query, or of as many as there is memory for, at once."""
        gallery = torch.arange(len(self.query_gallery.gallery_rows), device=self.queries.device)
        numbers = torch.arange(len(self.queries), device=self.queries.device)
        for block in Products(self.scores, self.queries, gallery, self.dtype, memory).strips():
            asking = numbers[block.rows]
            answering = gallery[block.columns]
            self._hide(block.scores, self.queries[asking], answering)
            fast, column = block.scores.topk(min(self.kept, len(answering)), sorted=False)
            new = pack(fast.float(), answering[column])
            self._keep(asking, torch.cat([self.keys[asking, : self.kept], new], dim=1))

    def _sweep_all(self, memory: int) -> None:
        """Look at all scores in blocks, of which few are above what a query has already.

        Within one-against-rest the queries' own square is symmetric.
        """
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

    def parts(self) -> list[slice]:
        """Slices of the queries whose candidates are scored at a time."""
        return slices_within(len(self.queries), 16 * self.kept, self.scores.at_once)

    def _look_again(self, memory: int) -> None:
        """Collect anew, with nothing guessed, for those whose guessed floor was too high: all in one sweep."""
        # As many as there is memory for; what is left is looked for when it is asked for.
        most = len(self.queries) // MOST_AGAIN + COPIED_ROWS
        hidden = self.is_hidden.nonzero().flatten()[:most]
        self.number_again[hidden] = torch.arange(len(hidden), device=hidden.device)
        if len(hidden):
            self.again = self._again(self.queries[hidden], memory)

    def _again(self, queries: torch.Tensor, memory: int) -> "Candidates":
        """Candidates of some queries, nothing being guessed, in the type that leaves the least in doubt."""
        kept = kept_candidates(self.scores, self.k, torch.float32)
        again = Candidates(self.query_gallery, self.scores, queries, self.k, torch.float32, kept, memory)
        again.collect(memory, guess=False)
        return again

    def _sweep(self, numbers: torch.Tensor, gallery: torch.Tensor, memory: int, symmetric: bool) -> None:
        """Add all scores of the queries with these numbers (n,) against gallery positions (g,)."""

        def look_at(block: Block) -> None:
            asking = numbers[block.rows]
            answering = gallery[block.columns]
            self._hide(block.scores, self.queries[asking], answering)
            # Both directions of a mirrored block, which are of different queries.
            directions = [(block.scores, 1, asking, answering)]
            if block.mirrored:
                directions.append((block.scores, 0, numbers[block.columns], gallery[block.rows]))
            # Above a positive floor are positive scores alone, which are in order as they are.
            if not all((self.floor[others] > 0).all() for _, _, others, _ in directions):
                in_order_(block.scores)
            for direction in directions:
                self._add(*direction)

        Products(self.scores, self.queries[numbers], gallery, self.dtype, memory, symmetric).each(look_at)

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
        """Add a block's scores, items of `gallery` along `axis`, for the queries with these numbers (n,).

        scores: of the type of the products, and what `in_order_` has made of them where a floor is not positive.
        """
        if scores.dtype == torch.bfloat16:
            scores = scores.view(torch.int16)
        floor = self.floor[numbers]
        if (floor == -math.inf).all():
            floor = self._first_floor(scores, axis)
            with self.lock:
                self.floor[numbers] = self.floor[numbers].maximum(floor)
        # Few scores are above it. They come ordered by row: each goes behind those that its row has.
        row, column, value = above_floor(scores, axis, in_order_(floor.to(self.dtype)))
        keys = pack(out_of_order(value), gallery[column])
        counts = row.bincount(minlength=len(numbers))
        number_in_row = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        with self.lock:
            self._append(numbers, row, number_in_row, keys, counts)

    def _append(
        self,
        numbers: torch.Tensor,
        row: torch.Tensor,
        number_in_row: torch.Tensor,
        keys: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """Put new keys (m,) behind those that the queries with these numbers (n,) have.

        row (m,): which of `numbers` a key is of, ascending; number_in_row (m,): how many of its keys come before;
        counts (n,): how many keys each has.
        """
        room = self.keys.shape[1]
        crowded = (self.filled[numbers] + counts > room).nonzero().flatten()
        if len(crowded):
            # Where there is no room, the worst of what they have and of what is new are dropped.
            place = torch.full_like(counts, NOWHERE)
            place[crowded] = torch.arange(len(crowded), device=row.device)
            is_crowded = place[row] != NOWHERE
            self._merge(numbers[crowded], place[row[is_crowded]], number_in_row[is_crowded], keys[is_crowded])
            counts[crowded] = 0
            row, number_in_row, keys = row[~is_crowded], number_in_row[~is_crowded], keys[~is_crowded]
        slot = (numbers * room + self.filled[numbers])[row] + number_in_row
        self.keys.view(-1)[slot] = keys
        self.filled[numbers] += counts

    def _first_floor(self, scores: torch.Tensor, axis: int) -> torch.Tensor:
        """(n,) float32: what the first block says of the scores that are wanted."""
        count = scores.shape[axis]
        gallery_size = len(self.query_gallery.gallery_rows)
        wanted = self.kept
        if self.guess and count < gallery_size:
            # As many as a sample of this size holds of the best, and three standard deviations more.
            expected = self.kept * count / gallery_size
            wanted = min(wanted, math.ceil(expected + 3 * math.sqrt(expected)))
        if wanted >= count:
            return torch.full((scores.shape[1 - axis],), -math.inf, device=scores.device)
        by_row = scores if axis == 1 else scores.T
        floors = []
        for part in by_row.split(COPIED_ROWS):
            part = part.clone(memory_format=torch.contiguous_format)
            floors.append(partition_(part, count - wanted)[:, count - 1 - wanted])
        return out_of_order(torch.cat(floors))

    def _merge(
        self, numbers: torch.Tensor, place: torch.Tensor, number_in_row: torch.Tensor, keys: torch.Tensor
    ) -> None:
        """Keep the best of what the queries with these numbers (n,) have and of new keys (m,).

        place (m,): which of `numbers` a key is of, ascending; number_in_row (m,): how many of its keys come before.
        """
        for part in slices_of(len(numbers), COPIED_ROWS):
            first, last = torch.searchsorted(place, torch.tensor([part.start, part.stop], device=place.device)).tolist()
            column = number_in_row[first:last]
            width = self.keys.shape[1] + int(column.max()) + 1
            merged = torch.full((part.stop - part.start, width), EMPTY_KEY, device=keys.device)
            merged[:, : self.keys.shape[1]] = self.keys[numbers[part]]
            merged[place[first:last] - part.start, self.keys.shape[1] + column] = keys[first:last]
            self._keep(numbers[part], merged)

    def _keep(self, numbers: torch.Tensor, keys: torch.Tensor) -> None:
        """Leave the queries with these numbers the best of some candidates' keys (n, c); the worst is the floor."""
        keys = partition_(keys, self.kept)[:, : self.kept]
        self.keys[numbers, : self.kept] = keys
        self.keys[numbers, self.kept :] = EMPTY_KEY
        self.filled[numbers] = (keys != EMPTY_KEY).sum(1)
        _, worst = unpack(keys[:, -1])
        self.floor[numbers] = self.floor[numbers].maximum(worst)

    def _settle(self, part: slice) -> None:
        """Choose the k nearest of the candidates, and see whether one that was dropped may be among them."""
        queries = self.queries[part]
        keys = sort_(self.keys[part])
        # What comes behind the candidates kept is dropped here, so it counts as the floor, too.
        _, dropped = unpack(keys[:, self.kept])
        floor = self.floor[part].maximum(dropped)
        position, fast = unpack(keys[:, : self.kept])
        # The k likeliest first: what cannot come before the last of them needs no close score.
        value = torch.full_like(fast, -math.inf)
        value[:, : self.k] = self.scores.close_pairs(queries, position[:, : self.k].clamp_min(0))
        value.masked_fill_(position == NOWHERE, -math.inf)
        # What candidates may be at most falls along a row. Queries that ask for about as many are scored at once.
        asked = (self._most(queries, fast) >= self._least(queries, value)).sum(1)
        for some in asked.argsort().tensor_split(min(ASKING, len(asked))):
            others = position[some, self.k : int(asked[some].max())]
            if others.numel():
                close = self.scores.close_pairs(queries[some], others.clamp_min(0))
                value[some, self.k : self.k + others.shape[1]] = close.masked_fill_(others == NOWHERE, -math.inf)
        keys = sort_(pack(value, position))
        # Nor can what was dropped, unless the floor's range reaches that of the k-th close score.
        position, value = unpack(keys)
        self.keys[part, : self.k] = self._ordered(queries, position, value)
        self.is_hidden[part] = (self._most(queries, floor[:, None]) >= self._least(queries, value))[:, 0]
        self.is_hidden[part] &= floor > -math.inf

    def _most(self, queries: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
        """What the scores behind fast ones (n, c) are at most, in fast units."""
        errors, gallery_error = self.errors[self.dtype]
        return self.scores.exact_range(fast, errors[queries, None], gallery_error, self.dtype)[1]

    def _least(self, queries: torch.Tensor, close: torch.Tensor) -> torch.Tensor:
        """(n, 1): what the least of the first k scores behind close ones (n, c) is at least, in fast units."""
        errors, gallery_error = self.errors[torch.float32]
        kth = close[:, : self.k].amin(1, keepdim=True)
        return self.scores.exact_range(kth, errors[queries, None], gallery_error, torch.float32, RUN)[0]

    def nearest(self, part: slice, memory: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and scores (n, k) of the queries numbered by the slice `part`, ordered by exact scores."""
        return unpack(self._best_keys(part, memory))

    def _best_keys(self, part: slice | torch.Tensor, memory: int) -> torch.Tensor:
        # Those with something hidden are looked for once more.
        queries = self.queries[part]
        keys = self.keys[part, : self.k].clone()
        number = self.number_again[part]
        found_again = (number != NOWHERE).nonzero().flatten()
        if len(found_again):
            keys[found_again] = self.again._best_keys(number[found_again], memory)
        hidden = (self.is_hidden[part] & (number == NOWHERE)).nonzero().flatten()
        if len(hidden) and self.guess:
            keys[hidden] = self._again(queries[hidden], memory)._best_keys(slice(None), memory)
        elif len(hidden):
            keys[hidden] = self._ordered_exactly(queries[hidden], memory)
        return keys

    def _ordered(self, queries: torch.Tensor, position: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Keys (n, k) of rows, of positions (n, c) and their close scores, both best first.

        What is too close to call is scored exactly.
        """
        row, column = self._unsure(queries, value, position).nonzero(as_tuple=True)
        score = self.scores.from_fast_units(value)
        score[row, column] = self.scores.exact_pairs(queries[row], position[row, column])
        return sort_(pack(score, self._table_rows(position)))[:, : self.k]

    def _unsure(self, queries: torch.Tensor, value: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """(n, c) bool: candidates, best first, whose close scores cannot tell their order among the first k."""
        errors, gallery_error = self.errors[torch.float32]
        low, high = self.scores.exact_range(value, errors[queries, None], gallery_error, torch.float32, RUN)
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
        keys = torch.full((len(queries), self.k), EMPTY_KEY, device=queries.device)
        for block in Products(self.scores, queries, gallery, torch.float64, memory):
            answering = gallery[block.columns]
            self._hide(block.scores, queries[block.rows], answering)
            new = pack(block.scores, self._table_rows(answering).expand_as(block.scores))
            keys[block.rows] = partition_(torch.cat([keys[block.rows], new], dim=1), self.k)[:, : self.k]
        return sort_(keys)

    def _table_rows(self, positions: torch.Tensor) -> torch.Tensor:
        return self.query_gallery.gallery_rows[positions.clamp_min(0)].where(positions != NOWHERE, NOWHERE)


def finds_best_of_rows(device: torch.device) -> bool:
    """Whether the best of long rows are found faster than what is above a floor, as thousands of cores do."""
    return device.type != "cpu"


def above_floor(
    scores: torch.Tensor, axis: int, floor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of the CPU above floor (n,) along `axis`: (row, column, value) by row; columns count along `axis`."""
    limits = floor[:, None] if axis == 1 else floor
    # NumPy finds the few that are several times as fast as torch.
    place = torch.from_numpy(np.flatnonzero(np.greater(scores.numpy(), limits.numpy())))
    value = scores.reshape(-1)[place]
    first, second = place // scores.shape[1], place % scores.shape[1]
    if axis == 1:
        return first, second, value
    order = second.short().argsort(stable=True) if scores.shape[1] < 2**15 else second.argsort(stable=True)
    return second[order], first[order], value[order]


def sort_(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers (n, c), contiguous, each row sorted in its place."""
    if numbers.device.type != "cpu":
        return numbers.copy_(numbers.sort(1).values)
    numbers.numpy().sort(axis=1)  # several times as fast as torch's
    return numbers


def partition_(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers (n, c), contiguous, the `count` least of each row first, the greatest of these last of them."""
    if numbers.device.type != "cpu":
        return sort_(numbers)
    numbers.numpy().partition(count - 1, axis=1)
    return numbers


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
