"""What a score is: cosine or squared Euclidean distance of two rows, fast to within a proven band, or exact.

The exact score of two rows does not depend on block sizes, threads or devices. Rows are scaled (cosine: to length one;
squared Euclidean: moved to the middle of their box and divided by a power of two, so that the longest is at most one),
rounded to a grid of 2^-26 (2^-25), and then multiplied in float64, where sums of such numbers are exact in any order.
The result is rounded to float32 once. The grid moves a row by less than float32 rounding moves its numbers.

A fast score comes from a matrix product in float32 or bfloat16 and differs from the exact one by less than a `band`,
which follows from the rounding of the numbers (measured, row by row, for bfloat16) and of the sums (arXiv 1306.0571,
eq. 3.5: at most D units in the last place for D terms, whatever their order; here four, for products that truncate).
"""

import math

import torch

from core.errors import InputError, near_match
from retrieval.rows import lengths_of, middle, pieces, power_of_two, row_lengths

DISTANCES = ("cosine", "squared_euclidean")
CACHED_NUMBERS = 2**19  # rows are looked at again and again in pieces that stay in the cache
CHUNK = 32  # terms that close scores add in float32


class Scores:
    """Scores of a task's queries against its gallery, larger being closer: the cosine, or minus the squared distance.

    gallery_lengths: (N,) float64 as row_lengths gives them for the gallery's table, where they are known from before.
    frame: the Frame of all embeddings, where the task's tables are a part of them and scores have to be those of all.
    Raises InputError for an unknown distance and for NaN or infinite embeddings, naming the rows.
    """

    def __init__(self, task, distance="cosine", gallery_lengths=None, frame=None):
        if distance not in DISTANCES:
            near = near_match(distance, DISTANCES)
            raise InputError(f"unknown distance {distance!r}; there are: {', '.join(DISTANCES)}.{near}")
        self.euclidean = distance == "squared_euclidean"
        self.tables = {"query": task.query_table, "gallery": task.gallery_table}
        self.rows = {"query": task.query_rows, "gallery": task.gallery_rows}
        self.width = task.gallery_table.shape[1]
        self._errors = {}
        self._twins = task.one_against_rest
        tables = {"gallery": task.gallery_table, "query": task.query_table}
        lengths = {"gallery": gallery_lengths if gallery_lengths is not None else row_lengths(task.gallery_table)}
        lengths["query"] = lengths["gallery"] if task.one_table else row_lengths(task.query_table, "query embeddings")
        self.centre = None
        if self.euclidean:
            self.centre = frame.centre if frame else middle(list(tables.values()))
            lengths = {side: lengths_of(table, self.centre) for side, table in tables.items()}
        longest = max(length.max().item() for length in lengths.values() if len(length))
        self.scale = frame.scale if frame else power_of_two(longest)
        self.lengths = lengths
        self.divisors = {side: torch.where(length > 0, length, math.inf) for side, length in lengths.items()}
        shortest = self.scale
        if not self.euclidean:
            shortest = min(divisor.min().item() for divisor in self.divisors.values() if len(divisor))
        ordinary = (
            2.0**-60 < shortest and longest < 2.0**60 and all(table.dtype.itemsize <= 4 for table in tables.values())
        )
        self.fast_type = torch.float32 if ordinary else torch.float64

    def unit(self, side, places, dtype=torch.float64):
        """Scaled rows (n, D) of some `places` (slice or (n,) int64) among the side's rows, reckoned in `dtype`."""
        rows = self.rows[side][places]
        numbers = self.tables[side][rows].to(dtype)
        if self.euclidean:
            return numbers.sub_(self.centre.to(dtype)).mul_(1 / self.scale)
        return numbers.mul_((1 / self.divisors[side][rows, None]).to(dtype))

    def _grid(self, side, places):
        """Scaled rows as whole multiples of the grid, (n, D) float64."""
        rows = self.rows[side][places]
        numbers = self.tables[side][rows].double()
        if self.euclidean:
            return numbers.sub_(self.centre).mul_(2.0**25 / self.scale).round_()
        return numbers.mul_(2.0**26 / self.divisors[side][rows, None]).round_()

    def score(self, whole):
        """Exact scores, float32, from exact sums of whole (or half) numbers, float64: rounded here and nowhere else."""
        return (whole * (2.0**-49 * self.scale**2 if self.euclidean else 2.0**-52)).float()

    def exact_pairs(self, queries, gallery):
        """Exact scores (n,) float32 of the pairs of places queries (n,) and gallery (n,)."""
        scores = torch.empty(len(queries), device=self.tables["gallery"].device)
        for part in pieces(len(queries), self.width, CACHED_NUMBERS // 4):
            asked, number = queries[part].unique_consecutive(return_inverse=True)
            left, right = self._grid("query", asked)[number], self._grid("gallery", gallery[part])
            terms = left.sub_(right).square_().mul_(-0.5) if self.euclidean else left.mul_(right)
            scores[part] = self.score(terms.sum(1))
        return scores

    def rounding_errors(self, side, dtype):
        """(n,) float64: how far a fast factor's rows may be from the scaled rows of a side (Euclidean length)."""
        if dtype == torch.float32:  # the divisor, the quotient and the factor are rounded once each
            return torch.tensor(2.0**-22, dtype=torch.float64, device=self.rows[side].device).expand(
                len(self.rows[side])
            )
        key = "both" if self._twins else side
        if key not in self._errors:
            errors = []
            for part in pieces(len(self.rows[side]), self.width):
                rounded = self.operand(side, part, dtype)[:, : self.width]
                errors.append(torch.linalg.vector_norm(self.unit(side, part).sub_(rounded), dim=1))
            self._errors[key] = torch.cat(errors) * 1.001 + 2.0**-40
        return self._errors[key]

    def gallery_error(self, dtype):
        """The greatest of the gallery's rounding_errors, a float64 scalar; 0 for a gallery that has no rows."""
        if not len(self.rows["gallery"]):
            return torch.zeros((), dtype=torch.float64, device=self.rows["gallery"].device)
        return self.rounding_errors("gallery", dtype).max()

    def operand(self, side, places, dtype):
        """The rows of `places` as a factor of a matrix product that scores them.

        float64: the product has whole numbers, which `score` turns into exact scores. Else: fast scores, in fast_units.
        (n, D) for cosine. For squared Euclidean further columns carry half the squared length, negated, beside ones, in
        the other order on the query's side, so that the product itself is minus half the squared distance.
        """
        exact = dtype == torch.float64
        rows = self._grid(side, places) if exact else self.unit(side, places, self.fast_type).to(dtype)
        if not self.euclidean:
            return rows
        rest = rows.double().square().sum(1).mul_(-0.5)
        parts = []
        for _ in range(3 if dtype == torch.bfloat16 else 1):  # three bfloat16 hold the digits of a float32
            parts.append(rest.to(dtype))
            rest = rest - parts[-1].double()
        lengths = torch.stack(parts, dim=1)
        factor = torch.cat([rows, lengths, torch.ones_like(lengths)], dim=1)
        return self.turned(factor) if side == "query" else factor

    def turned(self, factor):
        """A factor of the gallery's side as one of the query's side, and back."""
        if not self.euclidean:
            return factor
        parts = (factor.shape[1] - self.width) // 2
        rows, lengths, ones = factor.split([self.width, parts, parts], dim=1)
        return torch.cat([rows, ones, lengths], dim=1)

    def fast_units(self, scores):
        """Scores in the units of the fast product: the same for cosine, minus half the scaled squared distance else."""
        return scores / (2 * self.scale**2) if self.euclidean else scores

    def close_pairs(self, queries, gallery):
        """Fast values (n, c) float32 of the places queries (n,), each with its own row of places gallery (n, c).

        Sums of CHUNK terms in float32, then of these in float64: a band (`slack` with terms=CHUNK) so narrow that few
        neighbours are left to exact scores.
        """
        asking, found = self.unit("query", queries, self.fast_type), self.rows["gallery"][gallery]
        sums = torch.empty(gallery.shape, dtype=torch.float64, device=gallery.device)
        whole = self.width // CHUNK * CHUNK
        for part in pieces(len(queries), gallery.shape[1] * self.width, CACHED_NUMBERS):
            terms = self.tables["gallery"][found[part].flatten()].to(self.fast_type)
            if self.euclidean:
                terms.sub_(self.centre.to(terms.dtype)).mul_(1 / self.scale)
            terms = terms.view(-1, gallery.shape[1], self.width).mul_(asking[part, None])
            sums[part] = terms[..., :whole].unflatten(-1, (-1, CHUNK)).sum(-1).double().sum(-1) if whole else 0
            if whole < self.width:
                sums[part] += terms[..., whole:].sum(-1)
        if not self.euclidean:
            return (sums / self.divisors["gallery"][found]).float()
        own, other = self.lengths["query"][self.rows["query"][queries]], self.lengths["gallery"][found]
        return (sums - ((own / self.scale).square()[:, None] + (other / self.scale).square()) / 2).float()

    def slack(self, dtype, terms=None):
        """What sums, the grid and the last rounding add to the difference of fast and exact scores, in fast units.

        terms: how many numbers are added in `dtype`; all of a row, if nothing is said.
        """
        sums = ((terms or self.width) + 8) * (2.0**-24 if dtype == torch.float32 else 2.0**-22)
        if self.euclidean:  # distances of rows of length 1 are up to 2, and their grid is twice as wide
            return 2 * sums + 2.0**-24 * math.sqrt(self.width) + 2.0**-23
        return sums + 2.0**-26 * math.sqrt(self.width) + 2.0**-24

    def slow_units(self, values):
        """Fast values as scores, the inverse of fast_units."""
        return values * (2 * self.scale**2) if self.euclidean else values.clone()

    def doubt(self):
        """By how much any fast float32 score may differ from the exact one, in scores."""
        error = self.gallery_error(torch.float32)[None]
        least = torch.full_like(error, -2.0 if self.euclidean else -1.0)
        low, high = self.fast_range(least, error, error, torch.float32)
        return self.slow_units(high - low).item()

    def fast_range(self, exact, query_errors, gallery_error, dtype):
        """The least and the greatest fast value (n,) `dtype` that pairs of the scores `exact` can have.

        exact: (n,) in fast units; query_errors: (n,), gallery_error: a number, as rounding_errors gives them. Both ends
        rise with the score, so a pair above the range of a score has a greater one itself. Products are rounded to
        `dtype` to nearest, which keeps the order, so the ends may be rounded likewise.
        """
        exact, slack = exact.double(), self.slack(dtype)
        if self.euclidean:  # the triangle inequality: a distance moves by no more than both ends of it
            distance, move = (-2 * exact).clamp_min(0).sqrt(), query_errors + gallery_error
            low, high = -0.5 * (distance + move) ** 2, -0.5 * (distance - move).clamp_min(0) ** 2
        else:
            move = query_errors + gallery_error + query_errors * gallery_error
            low, high = exact - move, exact + move
        return (low - slack).to(dtype), (high + slack).to(dtype)

    def exact_range(self, fast, query_errors, gallery_error, dtype, terms=None):
        """The least and the greatest score (n,) float64, in fast units, behind fast values; terms: see `slack`."""
        slack = self.slack(dtype, terms) + (2.0**-8 * fast.double().abs() if dtype == torch.bfloat16 else 0)
        low, high = fast.double() - slack, fast.double() + slack
        if self.euclidean:
            nearest, farthest = (-2 * high).clamp_min(0).sqrt(), (-2 * low).clamp_min(0).sqrt()
            move = query_errors + gallery_error
            return -0.5 * (farthest + move) ** 2, -0.5 * (nearest - move).clamp_min(0) ** 2
        move = query_errors + gallery_error + query_errors * gallery_error
        return low - move, high + move
