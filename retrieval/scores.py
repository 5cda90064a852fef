"""Fast scores, and how far they may be from the exact ones.

A fast score comes from a matrix product in float32, bfloat16 or int8. It differs from the exact one
(retrieval/exact.py) by less than a bound that follows from the rounding of the numbers (measured, row by row, for
bfloat16 and int8: by Cauchy-Schwarz no product with a row is off by more than the length of what the row lost) and of
the sums, which are exact for int8
(arXiv 1306.0571, eq. 3.5: at most D units in the last place for D terms, whatever their order; here four, for products
that truncate). A close score is a float32 score of one pair, summed in short runs, so that its bound is narrower.

Fast scores have units of their own, "fast units": the cosine itself, or minus half the squared distance of the scaled
rows. Those of int8 are whole numbers, of cosines alone: a distance would need its lengths in many columns more.
"""

import math

import torch

from core.slices import slices_within
from retrieval.exact import DISTANCES, ExactScores, Side
from retrieval.query_gallery import QueryGallery
from retrieval.rows import Frame

__all__ = ["DISTANCES", "RUN", "Scores"]

RUN = 32  # terms that close scores add in float32
GREATEST = 127  # of the whole numbers that rows are rounded to in int8
INT8_COLUMNS = 16  # rows of int8 have a multiple of so many
FAR = 2.0**30  # beyond it are no products of int8
CLOSE_STEP = 4  # slices of rows scored closely at a time: many short steps keep threads from each other


class Scores(ExactScores):
    """Exact scores of queries against a gallery, and fast ones with the range in which the exact ones lie."""

    def __init__(
        self,
        query_gallery: QueryGallery,
        distance: str = "cosine",
        gallery_lengths: torch.Tensor | None = None,
        frame: Frame | None = None,
    ):
        super().__init__(query_gallery, distance, gallery_lengths, frame)
        self._rounding_errors = {}
        self._step = None
        # Where float32 could overflow or lose small numbers, or gets float64, rows are scaled in float64.
        shortest = self.scale
        if not self.euclidean:
            shortest = min(divisors.min().item() for divisors in self.divisors.values() if len(divisors))
        is_moderate = 2.0**-60 < shortest and self.longest < 2.0**60
        is_narrow = all(table.dtype.itemsize <= 4 for table in self.tables.values())
        self.scaling_type = torch.float32 if is_moderate and is_narrow else torch.float64

    def scaled_rows(
        self, side: Side, positions: slice | torch.Tensor, dtype: torch.dtype = torch.float64
    ) -> torch.Tensor:
        """Scaled rows (n, D) at some positions of a side, reckoned in `dtype`."""
        rows = self.rows[side][positions]
        numbers = self.tables[side].index_select(0, rows).to(dtype)
        if self.euclidean:
            return numbers.sub_(self.centre.to(dtype)).mul_(1 / self.scale)
        return numbers.mul_((1 / self.divisors[side][rows, None]).to(dtype))

    def factor(self, side: Side, positions: slice | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The rows at `positions` as a factor of a matrix product that scores them.

        float64: the product has sums on the grid, which `from_grid` turns into exact scores. Else: fast scores, those
        of int8, for cosine alone, in units of int8_step squared.
        (n, D) for cosine. For squared Euclidean further columns carry half the squared length, negated, beside ones, in
        the other order on the query's side, so that the product itself is minus half the squared distance.
        """
        if dtype == torch.float64:
            rows = self.grid_rows(side, positions)
        elif dtype == torch.int8:
            rows = self.scaled_rows(side, positions, self.scaling_type).div_(self.int8_step()).round_()
            rows = rows.clamp_(-GREATEST, GREATEST).to(dtype)
            # Columns of zeros: products of int8 demand a multiple, and leave a single column out.
            return torch.nn.functional.pad(rows, (0, -self.width % INT8_COLUMNS))
        else:
            rows = self.scaled_rows(side, positions, self.scaling_type).to(dtype)
        if not self.euclidean:
            return rows
        # Three bfloat16 hold the digits of a float32.
        digits = 3 if dtype == torch.bfloat16 else 1
        rest = rows.double().square().sum(1).mul_(-0.5)
        columns = []
        for _ in range(digits):
            columns.append(rest.to(dtype))
            rest = rest - columns[-1].double()
        # q.g - q.q/2 - g.g/2 as one product: (q, -q.q/2, 1) . (g, 1, -g.g/2).
        lengths = torch.stack(columns, dim=1)
        factor = torch.cat([rows, lengths, torch.ones_like(lengths)], dim=1)
        if side == "query":
            return self.other_side(factor)
        return factor

    def other_side(self, factor: torch.Tensor) -> torch.Tensor:
        """A factor of the gallery's side as one of the query's side, and back."""
        if not self.euclidean:
            return factor
        digits = (factor.shape[1] - self.width) // 2
        rows, lengths, ones = factor.split([self.width, digits, digits], dim=1)
        return torch.cat([rows, ones, lengths], dim=1)

    def close_pairs(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Fast values (n, c) float32 of the positions queries (n,), each with its own positions gallery (n, c).

        Runs of RUN terms are summed in float32, then these in float64: a range (`exact_range` with terms=RUN) so narrow
        that few neighbours are left to exact scores.
        """
        query_rows = self.scaled_rows("query", queries, self.scaling_type)
        gallery_rows = self.rows["gallery"][gallery]
        sums = torch.empty(gallery.shape, dtype=torch.float64, device=gallery.device)
        in_runs = self.width // RUN * RUN
        parts = slices_within(len(queries), gallery.shape[1] * self.width, CLOSE_STEP * self.at_once)
        # Rows are copied into the same place each time, since a new one of this size costs as many page faults.
        most_rows = max((part.stop - part.start for part in parts), default=0) * gallery.shape[1]
        place = self.tables["gallery"].new_empty(most_rows, self.width)
        for part in parts:
            chosen = gallery_rows[part].flatten()
            terms = torch.index_select(self.tables["gallery"], 0, chosen, out=place[: len(chosen)])
            terms = terms.to(self.scaling_type)
            if self.euclidean:
                terms.sub_(self.centre.to(terms.dtype)).mul_(1 / self.scale)
            terms = terms.view(-1, gallery.shape[1], self.width).mul_(query_rows[part, None])
            # 32 float32 terms lose little; all of a row would lose several times as much.
            if in_runs:
                sums[part] = terms[..., :in_runs].unflatten(-1, (-1, RUN)).sum(-1).double().sum(-1)
            else:
                sums[part] = 0
            if in_runs < self.width:
                sums[part] += terms[..., in_runs:].sum(-1)
        if not self.euclidean:
            return (sums / self.divisors["gallery"][gallery_rows]).float()
        query_squares = (self.lengths["query"][self.rows["query"][queries]] / self.scale).square()
        gallery_squares = (self.lengths["gallery"][gallery_rows] / self.scale).square()
        return (sums - (query_squares[:, None] + gallery_squares) / 2).float()

    def int8_step(self) -> float:
        """What a one of int8 stands for: one number for all rows, so that their products compare as they are."""
        if self._step is None:
            greatest = 0.0
            for side in ("gallery",) if self.symmetric else ("query", "gallery"):
                for part in slices_within(len(self.rows[side]), self.width, self.at_once):
                    greatest = max(greatest, self.scaled_rows(side, part, self.scaling_type).abs_().max().item())
            self._step = greatest / GREATEST or 1.0
        return self._step

    def rounding_errors(self, side: Side, dtype: torch.dtype) -> torch.Tensor:
        """(n,) float64: how far a fast factor's rows may be from the scaled rows of a side (Euclidean length)."""
        if dtype == torch.float32:
            # The divisor, the quotient and the factor are rounded once each.
            bound = torch.tensor(2.0**-22, dtype=torch.float64, device=self.rows[side].device)
            return bound.expand(len(self.rows[side]))
        key = (dtype, "both" if self.symmetric else side)
        if key not in self._rounding_errors:
            count = len(self.rows[side])
            # Made before the loop: small tensors that stay, between large ones that go, keep the memory of these.
            errors = torch.empty(count, dtype=torch.float64, device=self.rows[side].device)
            for part in slices_within(count, self.width, self.at_once):
                # Measured and not estimated: a bound from the type alone would be several times as wide.
                rounded = self.factor(side, part, dtype)[:, : self.width].double()
                if dtype == torch.int8:
                    rounded *= self.int8_step()
                torch.linalg.vector_norm(self.scaled_rows(side, part).sub_(rounded), dim=1, out=errors[part])
            self._rounding_errors[key] = errors.mul_(1.001).add_(2.0**-40)
        return self._rounding_errors[key]

    def gallery_error(self, dtype: torch.dtype) -> torch.Tensor:
        """The greatest of the gallery's rounding_errors, a float64 scalar; 0 for a gallery that has no rows."""
        if not len(self.rows["gallery"]):
            return torch.zeros((), dtype=torch.float64, device=self.rows["gallery"].device)
        return self.rounding_errors("gallery", dtype).max()

    def to_fast_units(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores in the units of the fast product: the same for cosine, minus half the scaled squared distance else."""
        if self.euclidean:
            return scores / (2 * self.scale**2)
        return scores

    def from_fast_units(self, values: torch.Tensor) -> torch.Tensor:
        """Fast values as scores in a tensor of their own, the inverse of to_fast_units."""
        if self.euclidean:
            return values * (2 * self.scale**2)
        return values.clone()

    def summing_bound(self, dtype: torch.dtype, terms: int | None = None) -> float:
        """What sums, the grid and the last rounding add to the difference of fast and exact scores, in fast units.

        terms: how many numbers are added in `dtype`; None for all of a row.
        """
        unit = 2.0**-24 if dtype == torch.float32 else 2.0**-22
        sums = ((terms or self.width) + 8) * unit
        if dtype == torch.int8:  # whole numbers
            sums = 0.0
        if self.euclidean:  # distances of rows of length 1 are up to 2, and their grid is twice as wide
            return 2 * sums + 2.0**-24 * math.sqrt(self.width) + 2.0**-23
        return sums + 2.0**-26 * math.sqrt(self.width) + 2.0**-24

    def fast_range(
        self,
        exact: torch.Tensor,
        query_errors: torch.Tensor,
        gallery_error: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest fast value (n,), as `dtype` multiplies, that pairs of scores `exact` can have.

        exact: (n,) in fast units; query_errors: (n,), gallery_error: a number, as rounding_errors gives them. Both ends
        rise with the score, so a pair above the range of a score has a greater one itself. Products are rounded to
        `dtype` to nearest, which keeps the order, so the ends may be rounded likewise.
        """
        exact = exact.double()
        bound = self.summing_bound(dtype)
        if self.euclidean:
            # The triangle inequality: a distance moves by no more than both of its ends.
            distance = (-2 * exact).clamp_min(0).sqrt()
            move = query_errors + gallery_error
            low = -0.5 * (distance + move) ** 2
            high = -0.5 * (distance - move).clamp_min(0) ** 2
        else:
            # Both rows have length 1 at most, and each is off by its error.
            move = query_errors + gallery_error + query_errors * gallery_error
            low = exact - move
            high = exact + move
        low, high = low - bound, high + bound
        if dtype == torch.int8:
            # A little more, for the roundings of these few lines.
            unit = self.int8_step() ** 2
            low = (low / unit * (1 - 2.0**-40 * low.sign())).floor()
            high = (high / unit * (1 + 2.0**-40 * high.sign())).ceil()
            return low.clamp(-FAR, FAR).int(), high.clamp(-FAR, FAR).int()
        return low.to(dtype), high.to(dtype)

    def exact_range(
        self,
        fast: torch.Tensor,
        query_errors: torch.Tensor,
        gallery_error: torch.Tensor,
        dtype: torch.dtype,
        terms: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest score (n,) float64, in fast units, behind fast values.

        terms: as of summing_bound.
        """
        bound = self.summing_bound(dtype, terms)
        fast = fast.double()
        if dtype == torch.int8:
            fast = fast * self.int8_step() ** 2
        if dtype == torch.bfloat16:  # the product itself is rounded to it
            bound = bound + 2.0**-8 * fast.abs()
        low = fast - bound
        high = fast + bound
        if self.euclidean:
            nearest = (-2 * high).clamp_min(0).sqrt()
            farthest = (-2 * low).clamp_min(0).sqrt()
            move = query_errors + gallery_error
            return -0.5 * (farthest + move) ** 2, -0.5 * (nearest - move).clamp_min(0) ** 2
        move = query_errors + gallery_error + query_errors * gallery_error
        return low - move, high + move

    def largest_fast_error(self) -> float:
        """By how much any fast float32 score may differ from the exact one, in scores."""
        error = self.gallery_error(torch.float32)[None]
        least = torch.full_like(error, -2.0 if self.euclidean else -1.0)
        low, high = self.fast_range(least, error, error, torch.float32)
        return self.from_fast_units(high - low).item()
