"""The k nearest rows by exact cosine, found through codes: what the codes' bound leaves open is scored exactly.

The first stage of all rows gives the greatest cosine that each can have. Rows that reach a query's floor, the k-th
greatest of what cosines are at least, are looked at closer by all stages; what then still reaches it is read as
float32 and scored by retrieval/exact.py. No row that is left out can be among the k nearest, ties included: its cosine
is at most a float32 number below the floor, and rounding to float32 keeps the order.
"""

import functools
import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from core.slices import MEMORY, slices_of, slices_within
from retrieval.blocks import true_float32
from retrieval.candidates import NOWHERE
from retrieval.codes import TURNING, Codes, Stage, on_grid, turned
from retrieval.exact import ExactScores
from retrieval.query_gallery import QueryGallery
from retrieval.rows import row_lengths
from retrieval.topk import search_in_parts
from retrieval.unscaled import fits, likely_nearest, table_blocks

GROUP = 32  # upper ends are looked through by the greatest of so many
# Queries up to which codes are multiplied as they are, where there are more they are decoded first; and columns of a
# first stage from which on so many more are few.
FEW_QUERIES, FEW_COLUMNS = 8, 128
BLOCK_ROWS, BLOCK_ROWS_OF_FEW = 4096, 32768  # looked at in one product
SAMPLE_ROWS = 4096  # rows that the first floors come from
DENSE = 1 / 8  # of a block: where more reaches the floor, all of the block is looked at closer, not row by row
PENDING, LEAST_PENDING = 256, 4096  # rows a query, and in all, that reach a floor before they are looked at closer
SETTLED = 64  # rows a query that are open beyond those there, after which floors are raised by them
MOST_OPEN = 2**14  # rows that codes may leave open for a query; it is searched for in float32 where there are more
MOST_NEIGHBOURS = 2**11  # likewise
PAIR_BYTES = 24  # of a row left open: query, position and both ends
SCORED_NUMBERS = 2**22  # of rows that are read and scored exactly at a time

Fetch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Part:
    """Rows that are searched: `codes` of a table, whose first row is at position `start` among those of all parts.

    live: (N,) bool, the rows that can be found; None: all.
    """

    codes: Codes
    start: int = 0
    live: torch.Tensor | None = None


@dataclass
class Open:
    """Pairs that bounds leave open, (m,) each: queries, positions, and the ends that their cosines lie between."""

    queries: torch.Tensor
    positions: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def none(cls) -> "Open":
        numbers = torch.zeros(0, dtype=torch.int64)
        return cls(numbers, numbers, torch.zeros(0), torch.zeros(0))

    @classmethod
    def joined(cls, parts: list["Open"]) -> "Open":
        columns = zip(*((part.queries, part.positions, part.lower, part.upper) for part in parts))
        return cls(*(torch.cat(column) for column in columns))

    def take(self, chosen: torch.Tensor) -> "Open":
        return Open(self.queries[chosen], self.positions[chosen], self.lower[chosen], self.upper[chosen])


class StageQueries:
    """The queries' side of a stage: their numbers, and how far products with codes may be off beside the residuals.

    numbers (Q, w) float32, short_numbers bfloat16; lengths, tail_lengths (Q,) float32, no less than those of the
    queries' own columns and of the columns that the stage lacks. slack, short_slack (Q,) float32: the rounding of a
    product's factors and of its sum. For n terms of either sign a float32 sum in any order is off by n 2^-24 of the sum
    of their sizes (arXiv 1306.0571, eq. 3.5); twice that and some terms more are allowed for.
    """

    def __init__(self, stage: Stage, queries: torch.Tensor, longest_tail: float = 0.0):
        own = queries[:, stage.columns]
        self.numbers = own.float()
        self.short_numbers = own.bfloat16()
        lengths = torch.linalg.vector_norm(own, dim=1)
        others = queries.clone()
        others[:, stage.columns] = 0
        tail_lengths = torch.linalg.vector_norm(others, dim=1)
        self.lengths = _float32_above(lengths)
        self.tail_lengths = _float32_above(tail_lengths)
        sizes = lengths * (stage.longest + stage.widest) + tail_lengths * longest_tail
        rounding = (stage.width + 18) * 2.0**-23 * sizes + TURNING + 2.0**-21
        self.slack = _float32_above(self._moved(own, self.numbers) * stage.longest + rounding)
        self.short_slack = _float32_above(self._moved(own, self.short_numbers) * stage.longest + rounding)

    @staticmethod
    def _moved(numbers: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(numbers - rounded.double(), dim=1)


class PartSearch:
    """Bounds of the cosines of queries (Q, D), float64 on the grid, with the rows of one part."""

    def __init__(self, part: Part, queries: torch.Tensor):
        self.part = part
        self.codes = part.codes
        queries = turned(queries, self.codes.rotation)
        self.first = StageQueries(self.codes.first, queries, self.codes.longest_tail)
        self.full = [StageQueries(stage, queries) for stage in self.codes.full]
        few = FEW_QUERIES * max(1, self.codes.first.width // FEW_COLUMNS)
        self.is_short = len(queries) <= few and multiplies_codes(self.codes.first)
        self.looks_closer = self.codes.tails is not None and multiplies_codes(self.codes.full[1])

    def first_upper(self, rows: slice) -> torch.Tensor:
        """What the cosines with some rows are at most by their first stage, (Q, n) float32, dead ones -infinity."""
        stage, asked = self.codes.first, self.first
        residuals = stage.residuals[rows].float()
        tails = None
        if self.codes.tails is not None:
            tails = self.codes.tails[rows].float()
        if self.is_short:
            upper = _short_product(asked.short_numbers, stage, rows)
            upper += upper.abs() * 2.0**-8
            upper += asked.lengths[:, None] * residuals + asked.short_slack[:, None]
            if tails is not None:
                upper += asked.tail_lengths[:, None] * tails
        else:
            # More columns make the product itself the upper end: (y, slack, |y|, |rest of y|) . (x, 1, residual, tail).
            left = [asked.numbers, asked.slack[:, None], asked.lengths[:, None]]
            right = torch.empty(len(residuals), stage.width + 2 + (tails is not None))
            torch.mul(stage.take(rows), stage.scales[rows].float()[:, None], out=right[:, : stage.width])
            right[:, stage.width] = 1
            right[:, stage.width + 1] = residuals
            if tails is not None:
                left.append(asked.tail_lengths[:, None])
                right[:, -1] = tails
            upper = _product(torch.cat(left, dim=1), right)
        if self.part.live is not None and not self.part.live[rows].all():
            upper[:, ~self.part.live[rows]] = -torch.inf
        return upper

    def block_ends(self, numbers: torch.Tensor, rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the cosines of the queries with these numbers (m,) are at least and at most with some rows, (m, n) each.

        Dead rows have -infinity.
        """
        middle = 0.0
        slack = 0.0
        for stage, asked in zip(self.codes.full, self.full):
            slack = slack + asked.lengths[numbers, None] * stage.residuals[rows].float()
            if self.is_short and multiplies_codes(stage):
                product = _short_product(asked.short_numbers[numbers], stage, rows)
                slack += product.abs() * 2.0**-8 + asked.short_slack[numbers, None]
            else:
                decoded = stage.take(rows) * stage.scales[rows].float()[:, None]
                product = _product(asked.numbers[numbers], decoded)
                slack += asked.slack[numbers, None]
            middle = middle + product
        lower, upper = middle - slack, middle + slack
        if self.part.live is not None:
            dead = ~self.part.live[rows]
            lower[:, dead] = -torch.inf
            upper[:, dead] = -torch.inf
        return lower, upper

    def closer_upper(self, pairs: "Reaching") -> torch.Tensor:
        """What the cosines of pairs (m,), ordered by query, are at most, by codes multiplied as they are."""
        stage, asked = self.codes.full[1], self.full[1]
        upper = torch.empty(len(pairs.rows))
        stop = 0
        for number, count in enumerate(pairs.numbers.bincount().tolist()):
            if count:
                part = slice(stop, stop + count)
                query = asked.short_numbers[number : number + 1]
                upper[part] = _short_product(query, stage, pairs.rows[part])[0]
                stop += count
        # Of the first stage's end, what it allowed for the other columns makes room for their product.
        upper += upper.abs() * 2.0**-8
        upper += asked.lengths[pairs.numbers] * stage.residuals[pairs.rows] + asked.short_slack[pairs.numbers]
        upper -= self.first.tail_lengths[pairs.numbers] * self.codes.tails[pairs.rows]
        return upper + pairs.upper

    def pair_ends(self, numbers: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the cosines of pairs of queries (m,) and rows (m,) are at least and at most, (m,) each."""
        middle = torch.zeros(len(rows))
        slack = torch.zeros(len(rows))
        for stage, asked in zip(self.codes.full, self.full):
            for part in slices_within(len(rows), stage.width, SCORED_NUMBERS):
                chosen = rows[part]
                terms = stage.take(chosen) * asked.numbers[numbers[part]]
                middle[part] += terms.sum(1) * stage.scales[chosen].float()
                residuals = stage.residuals[chosen].float()
                slack[part] += asked.lengths[numbers[part]] * residuals + asked.slack[numbers[part]]
        return middle - slack, middle + slack


@dataclass
class Reaching:
    """Pairs that reach the floor by the first stage, (m,) each: numbers of queries, rows of the part, upper ends."""

    numbers: torch.Tensor
    rows: torch.Tensor
    upper: torch.Tensor

    def take(self, chosen: torch.Tensor) -> "Reaching":
        return Reaching(self.numbers[chosen], self.rows[chosen], self.upper[chosen])


class Floors:
    """Of Q queries the pairs left open, and what the k-th nearest cosine is at least.

    values (Q,) float32; is_given_up (Q,) bool: so much is open that float32 is faster.
    """

    def __init__(self, count: int, k: int):
        self.k = k
        self.values = torch.full((count,), -torch.inf)
        self.is_given_up = torch.zeros(count, dtype=torch.bool)
        self.open = Open.none()
        self._new = []
        self._settled = 0

    def raise_by_block(self, numbers: torch.Tensor, lower: torch.Tensor) -> None:
        """Learn of lower ends (m, n) of all rows of a block, for the queries with these numbers (m,)."""
        if lower.shape[1] >= self.k:
            least = lower.topk(self.k, dim=1).values[:, -1]
            self.values[numbers] = self.values[numbers].maximum(least)

    def add(self, pairs: Open) -> None:
        """Pairs that are open; floors rise by them once they are many."""
        self._new.append(pairs)
        if sum(map(len, self._new)) > self._settled + SETTLED * len(self.values):
            self.settle()

    def settle(self) -> None:
        """Raise the floors by the pairs added, and drop those that do not reach them."""
        pairs = Open.joined([self.open, *self._new])
        self._new = []
        pairs, rank = _by_query(pairs, pairs.lower)
        # Pairs are of different rows, so the k-th of them is no farther than the k-th nearest row.
        at_k = rank == self.k - 1
        numbers = pairs.queries[at_k]
        self.values[numbers] = self.values[numbers].maximum(pairs.lower[at_k])
        pairs = pairs.take(pairs.upper >= self.values[pairs.queries])
        crowded = pairs.queries.bincount(minlength=len(self.values)) > MOST_OPEN
        if crowded.any():
            self.is_given_up |= crowded
            self.values[crowded] = torch.inf
            pairs = pairs.take(~crowded[pairs.queries])
        self.open = pairs
        self._settled = len(pairs)


def left_open(parts: list[Part], queries: torch.Tensor, k: int, memory: int = MEMORY) -> tuple[Open, torch.Tensor]:
    """(pairs that may be among the k nearest, numbers of the queries for which these would be too many).

    queries: (Q, D) float64 on the grid (`on_grid`). k: no more than the rows that can be found.
    """
    floors = Floors(len(queries), k)
    searches = [PartSearch(part, queries) for part in parts if len(part.codes)]
    everyone = torch.arange(len(queries))
    _raise_by_sample(searches, floors, everyone)
    for found in searches:
        stage = found.codes.first
        most = BLOCK_ROWS_OF_FEW if found.is_short else BLOCK_ROWS
        fitting = memory // 8 // (4 * (stage.width + 3) + 12 * len(queries))
        step = max(GROUP, min(most, fitting) // GROUP * GROUP)
        pending = []
        pending_count = 0
        for rows in slices_of(len(found.codes), step):
            upper = found.first_upper(rows)
            number, row = _reaching(upper, floors.values)
            counts = number.bincount(minlength=len(queries))
            dense = (counts > DENSE * (rows.stop - rows.start)).nonzero().flatten()
            if len(dense):
                _look_at_block(found, floors, dense, rows)
                is_other = ~torch.isin(number, dense)
                number, row = number[is_other], row[is_other]
            pending.append(Reaching(number, row + rows.start, upper[number, row]))
            pending_count += len(row)
            if pending_count > max(LEAST_PENDING, PENDING * len(queries)):
                _look_at_pairs(found, floors, pending)
                pending = []
                pending_count = 0
        if pending:
            _look_at_pairs(found, floors, pending)
    floors.settle()
    return floors.open, floors.is_given_up.nonzero().flatten()


def _raise_by_sample(searches: list[PartSearch], floors: Floors, everyone: torch.Tensor) -> None:
    """First floors, from rows of all parts: rows may be sorted, and their first ones resemble no query."""
    counts = []
    for found in searches:
        live = found.part.live
        counts.append(len(found.codes) if live is None else int(live.sum()))
    ends = []
    for found, count in zip(searches, counts):
        # Evenly, and in each part as many as it holds of all.
        wanted = min(count, -(-SAMPLE_ROWS * count // max(1, sum(counts))))
        if wanted:
            rows = torch.linspace(0, count - 1, wanted, dtype=torch.float64).long().unique()
            if found.part.live is not None:
                rows = found.part.live.nonzero().flatten()[rows]
            lower, _ = found.block_ends(everyone, rows)
            ends.append(lower.topk(min(floors.k, len(rows)), dim=1).values)
    if ends:
        floors.raise_by_block(everyone, torch.cat(ends, dim=1))


def _look_at_block(found: PartSearch, floors: Floors, numbers: torch.Tensor, rows: slice) -> None:
    """Look closer at all rows of a block for the queries with these numbers (m,)."""
    lower, upper = found.block_ends(numbers, rows)
    floors.raise_by_block(numbers, lower)
    place, row = _reaching(upper, floors.values[numbers])
    positions = row + rows.start + found.part.start
    floors.add(Open(numbers[place], positions, lower[place, row], upper[place, row]))


def _look_at_pairs(found: PartSearch, floors: Floors, pending: list[Reaching]) -> None:
    """Look closer at pairs that reached the floor by their first stage."""
    columns = zip(*((pairs.numbers, pairs.rows, pairs.upper) for pairs in pending))
    pairs = Reaching(*(torch.cat(column) for column in columns))
    # The floor has risen since the first of them came.
    pairs = pairs.take(pairs.upper >= floors.values[pairs.numbers])
    if found.looks_closer:
        pairs = pairs.take(pairs.numbers.argsort(stable=True))
        pairs = pairs.take(found.closer_upper(pairs) >= floors.values[pairs.numbers])
    lower, upper = found.pair_ends(pairs.numbers, pairs.rows)
    is_open = upper >= floors.values[pairs.numbers]
    positions = pairs.rows[is_open] + found.part.start
    floors.add(Open(pairs.numbers[is_open], positions, lower[is_open], upper[is_open]))


def exact_nearest(
    queries: torch.Tensor, pairs: Open, k: int, fetch: Fetch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(positions (Q, k), exact cosines (Q, k) float32, pairs scored (Q,)) of the k nearest among pairs left open.

    queries: (Q, D) float32. fetch(positions (n,), rising): embeddings (n, D) float32 and their row_lengths (n,).
    Queries with fewer than k pairs have -1 and -infinity. Raises InputError where a cosine is not between its ends:
    then the codes are not those of the embeddings.
    """
    pairs, rank = _by_query(pairs, pairs.lower)
    # The nearest by their codes come first: their cosines settle most of the others.
    likely = rank < k
    first, rest = pairs.take(likely), pairs.take(~likely)
    scores = _exact(queries, first, fetch)
    floors = torch.full((len(queries),), torch.inf).scatter_reduce(0, first.queries, scores, "amin")
    rest = rest.take(rest.upper >= floors[rest.queries])
    pairs = Open.joined([first, rest])
    scores = torch.cat([scores, _exact(queries, rest, fetch)])
    if ((scores < pairs.lower) | (scores > pairs.upper)).any():
        raise InputError("the codes are damaged: a cosine is not within the bound of its code")

    order = np.lexsort((pairs.positions.numpy(), -scores.numpy(), pairs.queries.numpy()))
    order = torch.from_numpy(order)
    pairs, scores = pairs.take(order), scores[order]
    counts = pairs.queries.bincount(minlength=len(queries))
    rank = _ranks(pairs.queries, counts)
    is_best = rank < k
    positions = torch.full((len(queries), k), NOWHERE)
    best_scores = torch.full((len(queries), k), -torch.inf)
    positions[pairs.queries[is_best], rank[is_best]] = pairs.positions[is_best]
    best_scores[pairs.queries[is_best], rank[is_best]] = scores[is_best]
    return positions, best_scores, counts


def _exact(queries: torch.Tensor, pairs: Open, fetch: Fetch) -> torch.Tensor:
    """Exact cosines (m,) float32 of pairs."""
    scores = torch.empty(len(pairs))
    for part in slices_within(len(pairs), queries.shape[1], SCORED_NUMBERS):
        distinct, place = pairs.positions[part].unique(return_inverse=True)
        embeddings, lengths = fetch(distinct.numpy())
        task = QueryGallery.apart(queries, embeddings)
        exact = ExactScores(task, "cosine", torch.from_numpy(lengths))
        scores[part] = exact.exact_pairs(pairs.queries[part], place)
    return scores


@torch.no_grad()
def search_by_codes(
    queries: torch.Tensor | np.ndarray,
    table: np.ndarray,
    codes: Codes,
    k: int,
    memory: int = MEMORY,
    lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of a table (N, D) float32, in memory or mapped, to queries (Q, D): rows, exact cosines (Q, k).

    Ordered by exact cosine (retrieval/exact.py), equal ones by the smaller row; k beyond the table means all of it.
    lengths: row_lengths (N,) of the table, where they are at hand. Raises InputError for NaN and for shapes that do not
    fit.
    """
    queries = torch.as_tensor(queries).float().contiguous()
    query_lengths = row_lengths(queries, "query embeddings").numpy()
    if queries.shape[1:] != table.shape[1:] or table.shape != (len(codes), codes.width):
        raise InputError(
            f"queries {tuple(queries.shape)}, embeddings {table.shape} and codes {(len(codes), codes.width)} do not fit"
        )
    k = min(k, len(table))

    def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embeddings = np.ascontiguousarray(table[rows])
        if lengths is None:
            return embeddings, row_lengths(torch.from_numpy(embeddings)).numpy()
        return embeddings, lengths[rows]

    def in_float32(some: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return search_in_float32(some, table, k, memory, lengths)

    return nearest_by_codes([Part(codes)], queries, query_lengths, k, memory, fetch, in_float32)


@torch.no_grad()
def search_in_float32(
    queries: torch.Tensor, table: np.ndarray, k: int, memory: int = MEMORY, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What search_by_codes finds, without codes: rows and exact cosines (Q, k)."""
    if lengths is None:
        lengths = row_lengths(torch.from_numpy(table)).numpy()
    task = QueryGallery.apart(queries, torch.from_numpy(table))
    exact = ExactScores(task, "cosine", torch.from_numpy(lengths))
    if not fits(len(queries), table.shape[1], k, memory):
        return _searched_in_parts(task, exact, k, memory)
    query_lengths = exact.divisors["query"][:, None]
    units = (queries.double() / query_lengths).float().numpy()
    found, _, proven = likely_nearest(units, table_blocks(table, lengths, len(queries), memory), k)
    likely, is_sure = torch.from_numpy(found), torch.from_numpy(proven)
    if not is_sure.any():
        return _searched_in_parts(task, exact, k, memory)
    rows, scores = _in_exact_order(exact, likely, k)
    unsure = (~is_sure).nonzero().flatten()
    if len(unsure):
        others = QueryGallery.apart(queries[unsure], torch.from_numpy(table))
        others_exact = ExactScores(others, "cosine", torch.from_numpy(lengths))
        rows[unsure], scores[unsure] = _searched_in_parts(others, others_exact, k, memory)
    return rows, scores


def _searched_in_parts(task: QueryGallery, exact: ExactScores, k: int, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """As search_in_float32, of any number of queries: rows are scaled once for all."""
    found = search_in_parts(task, k, "cosine", memory, gallery_lengths=exact.lengths["gallery"])
    return _in_exact_order(exact, torch.cat([portion for _, portion, _ in found]), k)


def _in_exact_order(exact: ExactScores, rows: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest among rows (Q, c), and their exact cosines, (Q, k) each; equal ones go by the row."""
    numbers = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    scores = exact.exact_pairs(numbers, rows.flatten()).view(rows.shape).numpy()
    order = np.lexsort((rows.numpy(), -scores), axis=1)[:, :k]
    return np.take_along_axis(rows.numpy(), order, 1), np.take_along_axis(scores, order, 1)


@torch.no_grad()
def nearest_by_codes(
    parts: list[Part],
    queries: torch.Tensor,
    lengths: np.ndarray,
    k: int,
    memory: int,
    fetch: Fetch,
    in_float32: Callable[[torch.Tensor], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (Q, k) int64 and exact cosines (Q, k) float32 of the k nearest rows of all parts.

    queries: (Q, D) float32 with row_lengths (Q,). fetch: as of exact_nearest. in_float32(queries): the answer without
    codes, for queries of which codes leave too much open.
    """
    if k > MOST_NEIGHBOURS:
        return in_float32(queries)
    positions = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for portion in slices_within(len(queries), PAIR_BYTES * MOST_OPEN, memory // 2):
        asked = queries[portion]
        pairs, given_up = left_open(parts, on_grid(asked.numpy(), lengths[portion]), k, memory // 2)
        best, best_scores, _ = exact_nearest(asked, pairs, k, fetch)
        positions[portion], scores[portion] = best.numpy(), best_scores.numpy()
        if len(given_up):
            rows = given_up.numpy() + portion.start
            positions[rows], scores[rows] = in_float32(asked[given_up])
    return positions, scores


@functools.cache
def has_code_product() -> bool:
    """Whether this torch multiplies bfloat16 by int8, adding in float32: on x86 it does, and is asked once more."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not hasattr(torch, "_weight_int8pack_mm"):
        return False
    codes = (torch.arange(40 * 64) * 37 % 255 - 127).view(40, 64).to(torch.int8)
    numbers = (torch.arange(3 * 64) * 53 % 97 - 48).view(3, 64) / 64
    try:
        product = torch._weight_int8pack_mm(numbers.bfloat16(), codes, torch.ones(40, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    exact = numbers.double() @ codes.double().T
    return bool(((product.double() - exact).abs() <= exact.abs() * 2.0**-8 + 2.0**-10).all())


def multiplies_codes(stage: Stage) -> bool:
    """Whether a stage's codes can be a factor as they are; its kernel takes whole runs of columns."""
    return not stage.spec.is_signs and stage.width % GROUP == 0 and has_code_product()


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    with true_float32(), torch.autocast("cpu", enabled=False):
        return left @ right.T


def _short_product(numbers: torch.Tensor, stage: Stage, rows: slice | torch.Tensor) -> torch.Tensor:
    """Products (m, n) float32 of numbers (m, w) bfloat16 with rows as they are coded, which are rounded to bfloat16.

    So they are off by 2^-9 of themselves at the most, beside what StageQueries allows for.
    """
    return torch._weight_int8pack_mm(numbers.contiguous(), stage.take(rows), stage.scales[rows]).float()


def _reaching(upper: torch.Tensor, floors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the numbers (Q, n) that are no less than the floor (Q,) of their row, ordered by row."""
    count = upper.shape[1]
    if count % GROUP or len(upper) <= FEW_QUERIES:
        return (upper >= floors[:, None]).nonzero(as_tuple=True)
    # Few do, so the greatest of each group is looked at first; a group's members stand apart, which is faster.
    groups = upper.view(len(upper), GROUP, count // GROUP)
    row, group = (groups.amax(1) >= floors[:, None]).nonzero(as_tuple=True)
    pair, member = (groups[row, :, group] >= floors[row, None]).nonzero(as_tuple=True)
    return row[pair], member * (count // GROUP) + group[pair]


def _by_query(pairs: Open, values: torch.Tensor) -> tuple[Open, torch.Tensor]:
    """(pairs ordered by query, then by falling value; the rank (m,) of each among its query's)."""
    order = values.argsort(descending=True, stable=True)
    order = order[pairs.queries[order].argsort(stable=True)]
    pairs = pairs.take(order)
    return pairs, _ranks(pairs.queries, pairs.queries.bincount())


def _ranks(queries: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """What number among its query's each pair (m,) has, pairs being ordered by query; counts: pairs of each query."""
    return torch.arange(len(queries)) - (counts.cumsum(0) - counts)[queries]


def _float32_above(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers (n,) float64 as float32, none less than it was."""
    rounded = numbers.float()
    above = torch.nextafter(rounded, torch.tensor(torch.inf))
    return torch.where(rounded.double() < numbers, above, rounded)
