"""The rank of each query's best positive, by counting what beats it: no sort, no top-k, all of N x N never held."""

import math
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from core.slices import MEMORY, slices_of, step_within
from core.threads import side_by_side, workers
from retrieval.blocks import Block, Products, block_side, true_float32
from retrieval.candidates import SAMPLE, evenly
from retrieval.product_type import LEAST_INT8_COLUMNS, MOST_INT8_COLUMNS, fastest, in_order_, out_of_order
from retrieval.query_gallery import QueryGallery
from retrieval.rows import Frame
from retrieval.scores import Scores

COUNTED_BYTES = 8 * 2**20  # rows that are counted are copied in portions of so many bytes
RUN_ITEMS = 64  # items whose greatest score is compared, before any of them is
STRIP_QUERIES = 128  # queries whose positives are scored at a time
# The same on an accelerator, where many small portions wait for each other, and float64 may be slow.
COUNTED_DEVICE_BYTES, STRIP_DEVICE_QUERIES = 128 * 2**20, 2048
MOST_APART = 0.5  # where more than this share is undecided all are counted again, for the sake of the symmetry
PRECISIONS = [torch.int8, torch.bfloat16, torch.float32, torch.float64]
DOUBTED_PAIRS = 3000  # pairs of rows on whose products int8 saves as much as an item in doubt costs
LOOKED_AT = 1 / 6  # of that is what an item costs that is in doubt where the query's rank is not
MOST_DOUBTED = 4  # galleries on whose products it saves as much as counting a query again costs
MOST_LISTED = 64  # items of a query that a count leaves in doubt and that are then scored one by one
LISTED_BYTES = 16  # of each
MOST_IN_DOUBT = 2048  # items after which a count is given up for a query, and left to a more precise one
UNKNOWN = 2**40  # items that may come before the best positive of a query that was given up
LAST_ROW = 2**62  # a row that stands behind all others


class Shard(Protocol):
    """What a count has to know of a rank's share of the gallery: see retrieval.sharded.GalleryShard."""

    rows: torch.Tensor
    lengths: torch.Tensor
    frame: Frame

    def all_reduce_sum(self, counts: torch.Tensor) -> torch.Tensor: ...

    def all_reduce_max(self, numbers: torch.Tensor) -> torch.Tensor: ...


@torch.no_grad()
def positive_ranks(
    query_gallery: QueryGallery,
    ks: Iterable[int] | None = None,
    distance: str = "cosine",
    memory: int = MEMORY,
    dtype: torch.dtype | None = None,
    shard: Shard | None = None,
) -> torch.Tensor:
    """How many gallery items come before the best positive of each query, (Q,) float64; infinity without a positive.

    Exact, ties by the smaller row: see retrieval/exact.py. With `ks` a rank is only as exact as to tell rank < k for
    each of them, which is less work. memory: bytes beside the embeddings and a few numbers a row. dtype: of the first
    count (int8 for cosines alone), None for what this device multiplies fastest; the result is the same. shard: the
    GalleryShard that is the gallery here, where several ranks have one each; ranks are then those in all of them
    together.

    Gallery and queries are sorted by label, so positives stand in strips along the diagonal and all other blocks hold
    negatives only. A count gives bounds. Where they leave a query undecided, the items in doubt are scored exactly if
    they are few; else the query is counted again, more precisely.
    """
    if shard is None:
        scores = Scores(query_gallery, distance)
    else:
        scores = Scores(query_gallery, distance, shard.lengths, shard.frame)
    if dtype is None:
        dtype = first_precision(query_gallery, scores, ks)
    # Ranks may run on devices that prefer different types; all of them begin with the most precise of these.
    counts = _Counts(query_gallery, scores, ks, memory, shard)
    undecided = counts.by_label
    first = counts.all_reduce_max(torch.tensor(PRECISIONS.index(dtype)))
    for precision in PRECISIONS[first:]:
        # A count of all can use the symmetry, a count of some cannot.
        is_few = len(undecided) < MOST_APART * len(counts.by_label)
        queries = undecided if is_few else counts.by_label
        counts.count(queries, precision)
        undecided = queries[counts.is_undecided(queries)]
        if len(undecided):
            undecided = counts.settle_listed(undecided)
        if not len(undecided):
            break
    return counts.ranks()


def first_precision(query_gallery: QueryGallery, scores: Scores, ks: Iterable[int] | None = None) -> torch.dtype:
    """The type of the first count: what this device multiplies fastest, int8 only where it leaves little in doubt.

    ks: as of positive_ranks.
    """
    gallery_size = len(query_gallery.gallery_rows)
    pairs = len(query_gallery.query_rows) * gallery_size
    types = (torch.bfloat16, torch.float32)
    if not scores.euclidean and LEAST_INT8_COLUMNS <= scores.width <= MOST_INT8_COLUMNS:
        types = (torch.int8, *types)
    dtype = fastest(query_gallery.device, scores.width, pairs, types)
    if dtype == torch.int8:
        doubted_pairs = DOUBTED_PAIRS * in_doubt(query_gallery, scores, ks)
        if doubted_pairs.clamp_max(MOST_DOUBTED * gallery_size).mean() > gallery_size:
            dtype = fastest(query_gallery.device, scores.width, pairs, types[1:])
    return dtype


def in_doubt(query_gallery: QueryGallery, scores: Scores, ks: Iterable[int] | None = None) -> torch.Tensor:
    """How many items of the gallery a count of cosines in int8 leaves in doubt, (n,) float32 for some queries.

    They are scored against their positives and a sample of the gallery. A query whose rank is on the same side of all
    `ks`, wherever these items stand, is done with at the first item before it where k is 1; else it meets those in
    doubt until the greatest k are, and counts them for less.
    """
    gallery_size = len(query_gallery.gallery_rows)
    queries, sample = (evenly(*sizes) for sizes in zip((len(query_gallery.query_rows), gallery_size), SAMPLE))
    labels = query_gallery.query_labels[queries]
    positives = torch.isin(query_gallery.gallery_labels, labels).nonzero().flatten()[: SAMPLE[1]]
    left = scores.factor("query", queries, torch.float32)

    def sampled(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (n, m), and which of them are of one label."""
        with true_float32(), torch.autocast(left.device.type, enabled=False):
            product = left @ scores.factor("gallery", positions, torch.float32).T
        return product, labels[:, None] == query_gallery.gallery_labels[positions]

    score, is_positive = sampled(positives)
    is_positive &= query_gallery.self_positions()[queries, None] != positives
    best = score.masked_fill(~is_positive, -math.inf).amax(1, keepdim=True)
    errors = scores.rounding_errors("query", torch.int8)[queries, None]
    low, high = scores.fast_range(best, errors, scores.gallery_error(torch.int8), torch.int8)
    score, is_positive = sampled(sample)
    score = (score / scores.int8_step() ** 2).masked_fill_(is_positive, -math.inf)
    surely = (score > high).sum(1)
    maybe = (score >= low).sum(1) - surely
    scale = gallery_size / len(sample)
    surely, maybe = surely * scale, maybe * scale
    if ks is not None:
        is_open = torch.stack([(surely < k) & (surely + maybe >= k) for k in ks]).any(0)
        met = ((max(ks) - 1) / surely.clamp_min(1)).clamp_max(1)
        maybe = torch.where(is_open, maybe, LOOKED_AT * met * maybe)
    return maybe.masked_fill(best[:, 0].isinf(), 0.0)


class _Counts:
    """Counts of gallery items before each query's best positive, as bounds that are narrowed to a number.

    All (Q,), in the order of the queries: `best`, the positive's fast score in float32; `surely`, items certainly
    before it; `maybe`, items whose fast score cannot tell. Where the gallery is a shard, they are of all shards.
    """

    def __init__(
        self,
        query_gallery: QueryGallery,
        scores: Scores,
        ks: Iterable[int] | None,
        memory: int,
        shard: Shard | None,
    ):
        self.query_gallery = query_gallery
        self.scores = scores
        self.memory = memory
        self.shard = shard
        device = query_gallery.device
        counted_bytes = COUNTED_BYTES if device.type == "cpu" else COUNTED_DEVICE_BYTES
        self.counted_bytes = min(counted_bytes, memory // 8 // workers(device))
        # Rows that ties are settled by: those of the whole list, even where a rank has only some of them.
        self.rows = query_gallery.gallery_rows if shard is None else shard.rows[query_gallery.gallery_rows]
        self.ks = None if ks is None else torch.tensor(sorted(set(ks)), device=device)
        self.limit = math.inf if ks is None else max(ks)  # nobody asks whether more come before
        self.errors = scores.rounding_errors("query", torch.float32)
        self.is_lone = self.all_reduce_sum(query_gallery.positives()) == 0
        # Sorted by label, a query's positives are one run of the gallery.
        self.by_label = query_gallery.query_labels.argsort(stable=True)
        self.gallery = query_gallery.gallery_labels.argsort(stable=True)
        self.sorted_labels = query_gallery.gallery_labels[self.gallery]
        self.self_positions = query_gallery.self_positions()
        # A first look at the positives alone: what has to be beaten.
        best = torch.full((len(self.self_positions),), -math.inf, device=device)

        def beat(queries: torch.Tensor, _: torch.Tensor, strip: torch.Tensor) -> None:
            best[queries] = torch.maximum(best[queries], strip.amax(1))

        self._each_strip(beat, self.by_label, torch.float32)
        self.best = self.all_reduce_max(best)
        self.surely = torch.zeros_like(self.self_positions)
        self.maybe = torch.zeros_like(self.surely)
        self.listed = _Listed(len(best), memory, device)

    def all_reduce_sum(self, counts: torch.Tensor) -> torch.Tensor:
        return counts if self.shard is None else self.shard.all_reduce_sum(counts)

    def all_reduce_max(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers if self.shard is None else self.shard.all_reduce_max(numbers)

    def _each_strip(
        self,
        function: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
        queries: torch.Tensor,
        dtype: torch.dtype,
    ) -> None:
        """Score queries (sorted by label) against their positives; what is none is -infinity.

        function(queries (m,), gallery positions (n,), scores (m, n)) is called for one strip after another, and in
        several threads at once for queries that differ.
        """
        memory = self.memory // workers(queries.device)
        step = min(_strip_queries(queries.device), block_side(self.scores.width, dtype, memory, queries.device))

        def score(part: torch.Tensor) -> None:
            labels = self.query_gallery.query_labels[part]
            # From the first label of these queries to the last: others in between are taken out below.
            start = int(torch.searchsorted(self.sorted_labels, labels[0]))
            stop = int(torch.searchsorted(self.sorted_labels, labels[-1], right=True))
            strip = self.gallery[start:stop]
            for block in Products(self.scores, part, strip, dtype, memory):
                asking = part[block.rows]
                answering = strip[block.columns]
                is_positive = self._is_positive(asking, answering)
                function(asking, answering, block.scores.masked_fill_(~is_positive, -math.inf))

        with true_float32():  # set for all threads, before there are any
            side_by_side(score, queries.split(step), queries.device)

    def _is_positive(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """(m, n) bool: whether a gallery item is one of the query's label that it can find."""
        columns = self.query_gallery
        is_positive = columns.query_labels[queries, None] == columns.gallery_labels[gallery]
        is_positive &= self.self_positions[queries, None] != gallery
        if columns.query_sequences is not None:
            is_positive &= columns.query_sequences[queries, None] != columns.gallery_sequences[gallery]
        return is_positive

    def _hide(self, scores: torch.Tensor, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Set to the least number what is no negative: items of the query's label (itself, too) or sequence.

        Both queries and gallery are sorted by label.
        """
        columns = self.query_gallery
        query_labels, gallery_labels = columns.query_labels[queries], columns.gallery_labels[gallery]
        first, last = (torch.searchsorted(gallery_labels, query_labels, right=right) for right in (False, True))
        if (first < last).any():
            # Items of a label stand side by side, so some queries have theirs in a narrow strip.
            for part in slices_of(len(queries), _strip_queries(queries.device)):
                strip = slice(int(first[part][0]), int(last[part][-1]))
                _hide_same(scores[part, strip], query_labels[part], gallery_labels[strip])
        if columns.query_sequences is not None:
            query_sequences, gallery_sequences = columns.query_sequences[queries], columns.gallery_sequences[gallery]
            if torch.isin(query_sequences, gallery_sequences).any():
                _hide_same(scores, query_sequences, gallery_sequences)
        return scores

    def _bounds(self, queries: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (low, high), float32: an item above high is before the best positive, one below low behind it."""
        gallery_error = self.scores.gallery_error(torch.float32)
        errors = self.errors[queries]
        low, high = self.scores.exact_range(self.best[queries], errors, gallery_error, torch.float32)
        # The best score was made in float32, those it is compared with in `dtype`: two ranges, one in the other.
        if dtype != torch.float32:
            errors = self.scores.rounding_errors("query", dtype)[queries]
            gallery_error = self.scores.gallery_error(dtype)
        low, _ = self.scores.fast_range(low, errors, gallery_error, dtype)
        _, high = self.scores.fast_range(high, errors, gallery_error, dtype)
        return low.float(), high.float()

    def _exact_best(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Exact score (n,) float32 and gallery row of each query's best positive, the smallest row among equals."""
        best = torch.full((len(self.best),), -math.inf, device=self.best.device)
        best_row = torch.full_like(self.self_positions, LAST_ROW)

        def beat(asking: torch.Tensor, answering: torch.Tensor, strip: torch.Tensor) -> None:
            score = strip.amax(1)
            # Of equal scores the smallest row counts, within a strip and from one strip to the next.
            row = torch.where(strip == score[:, None], self.rows[answering], LAST_ROW).amin(1)
            row_if_equal = torch.where(score == best[asking], best_row[asking].minimum(row), best_row[asking])
            best_row[asking] = torch.where(score > best[asking], row, row_if_equal)
            best[asking] = best[asking].maximum(score)

        self._each_strip(beat, queries, torch.float64)
        best_of_all = self.all_reduce_max(best)
        # The smallest row is minus the greatest of the negated ones.
        best_row = -self.all_reduce_max(-best_row.where(best == best_of_all, LAST_ROW))
        return best_of_all[queries], best_row[queries]

    def count(self, queries: torch.Tensor, dtype: torch.dtype) -> None:
        """Count anew for `queries`, which are sorted by label."""
        is_exact = dtype == torch.float64
        if is_exact:
            low, best_row = self._exact_best(queries)
            high = low
        else:
            low, high = self._bounds(queries, dtype)
        low = low.masked_fill(self.is_lone[queries], math.inf)  # nothing comes before what is not there
        # What an earlier, coarser count found is forgotten.
        surely = torch.zeros(len(queries), dtype=self.surely.dtype, device=self.surely.device)
        maybe = torch.zeros_like(surely)
        self.listed = _Listed(len(self.best), self.memory, self.best.device)
        is_symmetric = self.query_gallery.one_against_rest and torch.equal(queries, self.gallery)

        def is_open(places: slice) -> torch.Tensor:
            """(n,) bool: who still asks: not those who know enough, nor those who will have to be counted again."""
            asks = surely[places] < self.limit
            return asks if is_exact else asks & (maybe[places] <= MOST_IN_DOUBT)

        def is_wanted(rows: slice, columns: slice) -> bool:
            """Whether a block may still change what somebody asks for."""
            return bool(is_open(rows).any()) or (is_symmetric and bool(is_open(columns).any()))

        def look_at(block: Block) -> None:
            block_scores = self._hide(block.scores, queries[block.rows], self.gallery[block.columns])
            # (who asks, who is found, their scores by who asks)
            directions = [(block.rows, block.columns, block_scores)]
            if block.mirrored:
                directions.append((block.columns, block.rows, block_scores.T))
            for asking, answering, by_asking in directions:
                # Most runs of items have nothing near the best positive; only the others are copied and counted.
                threshold = low[asking].masked_fill(~is_open(asking), math.inf)
                for items, runs in _in_runs(answering, by_asking):
                    who, which = _may_reach(runs, threshold).nonzero(as_tuple=True)
                    step = step_within(4 * runs.shape[2], self.counted_bytes)
                    for who_part, which_part in zip(who.split(step), which.split(step)):
                        places = asking.start + who_part
                        chosen = runs[who_part, which_part].float()
                        above, within = _count(chosen, low[places], high[places])
                        if is_exact:
                            rows = self.rows[self.gallery[items]].view(runs.shape[1:])[which_part]
                            above += _ties_before(chosen, low[places], best_row[places], rows, within)
                        with lock:
                            surely.index_add_(0, places, above)
                            maybe.index_add_(0, places, within)
                        if is_exact:
                            continue
                        few = ((within > 0) & (maybe[places] <= MOST_LISTED)).nonzero().flatten()
                        if len(few):
                            place, item = _within(chosen[few], low[places[few]], high[places[few]])
                            number = items.start + which_part[few][place] * runs.shape[2] + item
                            with lock:
                                self.listed.add(queries[places[few][place]], self.gallery[number])

        lock = threading.Lock()
        # The other half is for the copies that each thread makes of what it counts.
        blocks = Products(self.scores, queries, self.gallery, dtype, self.memory // 2, is_symmetric)
        blocks.each(look_at, is_wanted)
        self.surely[queries] = self.all_reduce_sum(surely)
        maybe[maybe > MOST_IN_DOUBT] = UNKNOWN
        if is_exact:
            maybe.zero_()
        self.maybe[queries] = self.all_reduce_sum(maybe)

    def settle_listed(self, queries: torch.Tensor) -> torch.Tensor:
        """Score the items in doubt of queries (sorted by label) that have all of them listed; return the others."""
        is_complete = self.all_reduce_sum(self.listed.counts)[queries] == self.maybe[queries]
        settled = queries[is_complete]
        if not len(settled):
            return queries
        best, best_row = self._exact_best(settled)
        asking, answering = self.listed.of(settled)
        score = self.scores.exact_pairs(asking, answering)
        number = torch.empty_like(self.surely)
        number[settled] = torch.arange(len(settled), device=number.device)
        number = number[asking]
        is_before = score > best[number]
        is_before |= (score == best[number]) & (self.rows[answering] < best_row[number])
        before = number[is_before].bincount(minlength=len(settled))
        self.surely[settled] += self.all_reduce_sum(before)
        self.maybe[settled] = 0
        return queries[~is_complete]

    def is_undecided(self, queries: torch.Tensor) -> torch.Tensor:
        """(n,) bool: whether the bounds leave open on which side of some k the rank is, or any rank without ks."""
        least = self.surely[queries]
        most = least + self.maybe[queries]
        if self.ks is None:
            return most > least
        return torch.searchsorted(self.ks, least, right=True) != torch.searchsorted(self.ks, most, right=True)

    def ranks(self) -> torch.Tensor:
        return self.surely.double().masked_fill(self.is_lone, math.inf)


class _Listed:
    """Pairs of a query and an item that a count leaves in doubt, as long as memory allows; counts (Q,): of a query."""

    def __init__(self, query_count: int, memory: int, device: torch.device):
        self.counts = torch.zeros(query_count, dtype=torch.int64, device=device)
        self.room = memory // 16 // LISTED_BYTES
        self.queries = [self.counts[:0].int()]
        self.items = [self.counts[:0].int()]

    def add(self, queries: torch.Tensor, items: torch.Tensor) -> None:
        if len(queries) <= self.room:
            self.room -= len(queries)
            self.queries.append(queries.int())
            self.items.append(items.int())
            self.counts += queries.bincount(minlength=len(self.counts))

    def of(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(queries (n,), items (n,)) of the chosen ones, ordered by query."""
        is_chosen = torch.zeros(len(self.counts), dtype=torch.bool, device=chosen.device)
        is_chosen[chosen] = True
        queries = torch.cat(self.queries).long()
        places = is_chosen[queries].nonzero().flatten()
        places = places[queries[places].argsort()]
        return queries[places], torch.cat(self.items)[places].long()


def _strip_queries(device: torch.device) -> int:
    return STRIP_QUERIES if device.type == "cpu" else STRIP_DEVICE_QUERIES


def _hide_same(scores: torch.Tensor, query_codes: torch.Tensor, gallery_codes: torch.Tensor) -> None:
    scores.masked_fill_(query_codes[:, None] == gallery_codes, _least(scores.dtype))


def _least(dtype: torch.dtype) -> float:
    """What is below all products of a type."""
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _in_runs(items: slice, scores: torch.Tensor) -> list[tuple[slice, torch.Tensor]]:
    """Scores (m, n) of some items as runs (m, r, RUN_ITEMS), and what is left over as one shorter run (m, 1, c)."""
    whole = scores.shape[1] // RUN_ITEMS * RUN_ITEMS
    parts = []
    if whole:
        runs = scores[:, :whole].unflatten(1, (-1, RUN_ITEMS))
        parts.append((slice(items.start, items.start + whole), runs))
    if whole < scores.shape[1]:
        parts.append((slice(items.start + whole, items.stop), scores[:, None, whole:]))
    return parts


def _may_reach(runs: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """(m, r) bool: whether any score of a run (m, r, c) may reach `low` (m,)."""
    if runs.dtype == torch.bfloat16 and runs.device.type == "cpu":
        # Maxima of whole numbers are several times faster, and positive bfloat16 are ordered as their bits are.
        if (low > 0).all():
            return _greatest(runs.view(torch.int16)).view(torch.bfloat16) >= low[:, None]
        return out_of_order(_greatest(in_order_(runs.clone()))) >= low[:, None]
    return _greatest(runs) >= low[:, None]


def _greatest(runs: torch.Tensor) -> torch.Tensor:
    """(m, r): the greatest of each run (m, r, c)."""
    if runs.stride(0) > 1:
        return runs.amax(2)
    # Of scores that were transposed, several times as fast along the axes as they stand in memory.
    return runs.permute(1, 2, 0).amax(1).T.contiguous()


def _count(scores: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of scores (n, c): how many are above high (n,), and how many from low (n,) to high."""
    if scores.device.type != "cpu":
        above = (scores > high[:, None]).sum(1)
        return above, (scores >= low[:, None]).sum(1) - above
    mask = torch.empty_like(scores)  # comparisons written and summed as floats are several times faster than bools
    above = torch.gt(scores, high[:, None], out=mask).sum(1).long()
    not_below = torch.ge(scores, low[:, None], out=mask).sum(1).long()
    return above, not_below - above


def _within(scores: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(who, which) of the scores (n, c) that are from low (n,) to high, as _count counts them."""
    return ((scores >= low[:, None]) & (scores <= high[:, None])).nonzero(as_tuple=True)


def _ties_before(
    scores: torch.Tensor, best: torch.Tensor, best_row: torch.Tensor, rows: torch.Tensor, ties: torch.Tensor
) -> torch.Tensor:
    """(n,): how many of the scores (n, c) that equal best (n,) stand in smaller gallery rows (n, c) than best_row."""
    before = torch.zeros_like(best_row)
    tied = (ties > 0).nonzero().flatten()
    if len(tied):
        is_earlier = rows[tied] < best_row[tied, None]
        before[tied] = ((scores[tied] == best[tied, None]) & is_earlier).sum(1)
    return before
