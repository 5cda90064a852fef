"""Rows of embeddings as codes of a byte or a bit a number, with a bound for each row on what the code leaves out.

A row is what exact cosines are made of (retrieval/exact.py): scaled to length one and rounded to the grid, g. It is
turned by an orthogonal matrix R, z = R g, whose first columns hold most of what rows differ in (principal axes, without
moving the mean), and cut into stages, here a and b, each with a scale s, whole numbers c and a residual r:

    z_a = s_a c_a + r_a,   z_b = s_b c_b + r_b

For a query y, turned alike and cut into y_a and y_b, the exact cosine <y, z> is that of the codes up to what
Cauchy-Schwarz says of the residuals, each held against its own part of the query:

    |<y, z> - s_a <y_a, c_a> - s_b <y_b, c_b>|  <=  |y_a| |r_a| + |y_b| |r_b|
    |<y, z> - s_a <y_a, c_a>|                   <=  |y_a| |r_a| + |y_b| |z_b|

The first line is the bound of the whole code, the second one that of its first stage alone, which reads a few columns
of each row. Lengths of residuals are measured in float64, row by row, and rounded up; what the floating-point numbers
of a search add is in `StageQueries` (retrieval/coded_search.py). Nothing holds only with a probability.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.arrays import read_npy, write_npy
from core.errors import InputError, near_match
from core.files import read_json, sync, synced, write_json
from core.slices import slices_within
from retrieval.exact import GRID_BITS, ExactScores
from retrieval.query_gallery import QueryGallery

KINDS = ("int8", "binary")
GREATEST = 127  # whole number of an int8 code, either way
FITTED_ROWS = 8192  # rows that the axes are fitted to
ASKING_ROWS = 64  # of them, those that stand for queries
FEWEST_ROWS = 4096  # below so many rows, all columns are one stage: there is nothing to save
MOST_COLUMNS = 4096  # wider rows are not turned: the matrix alone would take more than 128 MB
STEP = 32  # the width of a first stage is a multiple of it
PAIR_COST = 3000  # looking closer at one row costs a query as much as so many more columns of it
WORTH = 0.8  # a first stage has to save a fifth
ENCODED_NUMBERS = 2**21  # of rows that are encoded at a time
# What turning adds to a cosine. Sums of D terms in float64 are off by D 2^-53 at the most, in each of D columns and on
# both sides, which is below 2^-31 for D up to 4096; and R is orthogonal to within SKEW, or refused.
SKEW = 2.0**-31
TURNING = 2.0**-29
MEASURED = 2.0**-40  # rounding of a length measured in float64, relative, and absolute beside it
CARD = "codes.json"


@dataclass(frozen=True)
class StageSpec:
    """A stage before it has codes: its `name`, its `columns` of a turned row, and whether it keeps signs alone."""

    name: str
    columns: slice
    is_signs: bool = False

    @property
    def row_shape(self) -> tuple[int, str]:
        """(columns, type) of its array of codes."""
        width = self.columns.stop - self.columns.start
        if self.is_signs:
            return -(-width // 8), "|u1"
        return width, "|i1"


@dataclass(frozen=True, eq=False)
class Stage:
    """Codes of some columns of all rows.

    codes: (N, w) int8, or for signs (N, w / 8) uint8, a bit each. scales, residuals (N,): bfloat16, the latter no less
    than the length of what a code leaves out. widest: the greatest residual; longest: no decoded row is longer.
    """

    spec: StageSpec
    codes: np.ndarray
    scales: torch.Tensor
    residuals: torch.Tensor
    widest: float
    longest: float

    @property
    def columns(self) -> slice:
        return self.spec.columns

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start

    def take(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """The whole numbers (n, w) int8 of some rows: a slice, or (n,) int64."""
        codes = torch.from_numpy(self.codes)
        if isinstance(rows, slice):
            codes = codes[rows]
        else:
            codes = codes.index_select(0, rows)
        if not self.spec.is_signs:
            return codes
        bits = np.unpackbits(codes.numpy(), axis=1, count=self.width).view(np.int8)
        return torch.from_numpy(bits).mul_(2).sub_(1)


class Layout:
    """How the rows of a table become codes: the axes they are turned to, and which columns are a stage.

    rotation: (D, D) float64, or None where rows are not turned. specs: the stages; the first one is looked at for all
    rows. has_tails: the first stage has not all columns, and lengths of the others are kept.
    """

    def __init__(self, kind: str, width: int, leading: int, rotation: torch.Tensor | None):
        self.kind = kind
        self.width = width
        self.leading = leading
        self.rotation = rotation
        self.has_tails = kind == "int8" and leading < width
        everything = slice(0, width)
        if kind == "binary":
            self.specs = [StageSpec("signs", everything, is_signs=True), StageSpec("whole", everything)]
        elif self.has_tails:
            self.specs = [StageSpec("leading", slice(0, leading)), StageSpec("rest", slice(leading, width))]
        else:
            self.specs = [StageSpec("whole", everything)]

    @classmethod
    def fitted(cls, table: np.ndarray, lengths: np.ndarray, kind: str) -> "Layout":
        """That of a table (N, D) float32 with its row_lengths (N,). Raises InputError for an unknown kind."""
        if kind not in KINDS:
            raise InputError(f"codes {kind!r} are none of {', '.join(KINDS)}.{near_match(kind, KINDS)}")
        width = table.shape[1]
        # Signs of numbers of one size tell more than those of principal axes, and few rows are soon looked through.
        if kind == "binary" or len(table) < FEWEST_ROWS or not STEP < width <= MOST_COLUMNS:
            return cls(kind, width, width, None)
        chosen = np.linspace(0, len(table) - 1, min(len(table), FITTED_ROWS)).astype(np.int64)
        sample = on_grid(table[chosen], lengths[chosen])
        _, axes = torch.linalg.eigh(sample.T @ sample)
        rotation = axes.flip(1).T.contiguous()
        leading = leading_width(sample @ rotation.T)
        if leading == width:
            rotation = None
        return cls(kind, width, leading, rotation)

    @property
    def fact_count(self) -> int:
        return 2 * len(self.specs) + self.has_tails

    def encode(self, table: np.ndarray, lengths: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Codes of rows (n, D) float32 with lengths (n,): {stage: codes}, and facts (fact_count, n) uint16.

        The facts are, for each stage, scales and residuals, then tails: bfloat16 by their bits.
        """
        rows = turned(on_grid(table, lengths), self.rotation)
        codes = {}
        facts = []
        for spec in self.specs:
            codes[spec.name], scales, residuals = _encoded(rows[:, spec.columns], spec.is_signs)
            facts += [scales, residuals]
        if self.has_tails:
            facts.append(_measured(rows[:, self.leading :]))
        return codes, np.stack([_bfloat16_above(column) for column in facts])

    def blocks(
        self, table: np.ndarray, lengths: np.ndarray
    ) -> Iterator[tuple[slice, dict[str, np.ndarray], np.ndarray]]:
        """Yield (rows, codes, facts) of a whole table, block by block, as `encode` gives them."""
        for rows in slices_within(len(table), self.width, ENCODED_NUMBERS):
            yield rows, *self.encode(table[rows], lengths[rows])


class Codes:
    """The codes of a table (N, D): `first`, a stage looked at for all rows, and `full`, those that sum up to a row.

    tails: (N,) bfloat16, lengths of what `first` has no columns of, or None where it has all. int8: `first` is the
    first of `full`, or all of it. binary: `first` are signs, which are looked at before the int8 codes.
    """

    def __init__(self, layout: Layout, codes: dict[str, np.ndarray], facts: np.ndarray):
        self.kind = layout.kind
        self.width = layout.width
        self.rotation = layout.rotation
        columns = torch.from_numpy(facts.view(np.int16)).view(torch.bfloat16)
        stages = []
        for number, spec in enumerate(layout.specs):
            scales, residuals = columns[2 * number], columns[2 * number + 1]
            widest = _greatest(residuals)
            # A row on the grid is no longer than one, but for rounding; what the first stage lacks is its tail.
            longest = 1 + 2.0**-16 + widest
            if layout.has_tails and number:
                longest = _greatest(columns[-1]) + 2.0**-16 + widest
            stages.append(Stage(spec, codes[spec.name], scales, residuals, widest, longest))
        self.first = stages[0]
        self.full = stages[1:] if layout.kind == "binary" else stages
        self.tails = None
        self.longest_tail = 0.0
        if layout.has_tails:
            self.tails = columns[-1]
            self.longest_tail = _greatest(self.tails)

    def __len__(self) -> int:
        return len(self.first.scales)

    @classmethod
    def of(cls, table: np.ndarray, lengths: np.ndarray, kind: str = "int8") -> "Codes":
        """The codes of a table (N, D) float32 with its row_lengths (N,) float64, in memory.

        Raises InputError for an unknown kind.
        """
        layout = Layout.fitted(table, lengths, kind)
        codes = {}
        for spec in layout.specs:
            columns, form = spec.row_shape
            codes[spec.name] = np.empty((len(table), columns), form)
        facts = np.empty((layout.fact_count, len(table)), np.uint16)
        for rows, block, block_facts in layout.blocks(table, lengths):
            for name, array in block.items():
                codes[name][rows] = array
            facts[:, rows] = block_facts
        return cls(layout, codes, facts)

    @classmethod
    def write(cls, folder: str | Path, table: np.ndarray, lengths: np.ndarray, kind: str = "int8") -> None:
        """Write the codes of a table into a folder that is not there yet, block by block.

        CARD comes last: with it all is on the disk. Raises InputError as `of`, OSError where the disk refuses.
        """
        folder = Path(folder)
        layout = Layout.fitted(table, lengths, kind)
        folder.mkdir()
        facts = np.empty((layout.fact_count, len(table)), np.uint16)
        with contextlib.ExitStack() as stack:
            files = {}
            for spec in layout.specs:
                columns, form = spec.row_shape
                files[spec.name] = stack.enter_context(synced(folder / f"{spec.name}.npy"))
                header = {"descr": form, "fortran_order": False, "shape": (len(table), columns)}
                np.lib.format.write_array_header_1_0(files[spec.name], header)
            for rows, block, block_facts in layout.blocks(table, lengths):
                for name, array in block.items():
                    files[name].write(array.tobytes())
                facts[:, rows] = block_facts
        write_npy(folder / "facts.npy", facts)
        if layout.rotation is not None:
            write_npy(folder / "rotation.npy", layout.rotation.numpy())
        write_json(folder / CARD, {"kind": kind, "rows": len(table), "width": layout.width, "leading": layout.leading})
        sync(folder)

    @classmethod
    def open(cls, folder: str | Path, rows: int, width: int, kind: str) -> "Codes":
        """The codes in a folder, of a table (rows, width), mapped. Raises InputError for damaged ones.

        A file that is not there raises FileNotFoundError.
        """
        folder = Path(folder)
        card = read_json(folder / CARD)
        expected = {"kind": kind, "rows": rows, "width": width}
        leading = None
        if isinstance(card, dict):
            leading = card.get("leading")
        if type(leading) is not int or not 0 < leading <= width or card != {**expected, "leading": leading}:
            raise InputError(f"{str(folder / CARD)!r} is damaged: {card} for {kind} codes of ({rows}, {width})")
        rotation = None
        if kind == "int8" and leading < width:
            rotation = _read_rotation(folder / "rotation.npy", width)
        layout = Layout(kind, width, leading, rotation)
        codes = {}
        for spec in layout.specs:
            columns, form = spec.row_shape
            codes[spec.name] = _read_array(folder / f"{spec.name}.npy", (rows, columns), form, "c")
        facts = _read_array(folder / "facts.npy", (layout.fact_count, rows), "<u2")
        # Read as bfloat16, lengths and scales are no less than 0, and those of rows of length one are small.
        if rows and facts.max() > np.float32(16).view(np.uint32) >> 16:
            raise InputError(f"{str(folder / 'facts.npy')!r} is damaged: it holds what no scale and no length can be")
        return cls(layout, codes, facts)


def on_grid(table: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Rows (n, D) float64 that exact cosines are made of, by rows (n, D) float32 and their lengths (n,)."""
    embeddings = torch.from_numpy(np.ascontiguousarray(table))
    scores = ExactScores(QueryGallery.of(embeddings), "cosine", torch.from_numpy(np.ascontiguousarray(lengths)))
    return scores.grid_rows("gallery", slice(None)).mul_(2.0 ** -GRID_BITS["cosine"])


def turned(rows: torch.Tensor, rotation: torch.Tensor | None) -> torch.Tensor:
    """Rows (n, D) float64 on the axes of the codes."""
    if rotation is None:
        return rows
    return rows @ rotation.T


def leading_width(rows: torch.Tensor) -> int:
    """How many columns of turned rows (n, D), a sample, the first stage should have: all where fewer do not pay.

    Some of the rows ask the others. What they would have to look at closer is what reaches, by its first columns and
    the length of the rest, the nearest of the others; of a whole table the nearest are nearer, and fewer reach them.
    """
    width = rows.shape[1]
    step = len(rows) // min(len(rows), ASKING_ROWS)
    asking = torch.arange(0, len(rows), step)[:ASKING_ROWS]
    others = torch.ones(len(rows), dtype=torch.bool)
    others[asking] = False
    queries, gallery = rows[asking], rows[others]
    wanted = (queries @ gallery.T).amax(1, keepdim=True)
    best, least_cost = width, WORTH * width
    scores = torch.zeros(len(queries), len(gallery), dtype=rows.dtype)
    for leading in range(STEP, width, STEP):
        added = slice(leading - STEP, leading)
        scores += queries[:, added] @ gallery[:, added].T
        tails = queries[:, leading:].norm(dim=1)[:, None] * gallery[:, leading:].norm(dim=1)
        left_open = (scores + tails >= wanted).double().mean().item()
        cost = leading + PAIR_COST * left_open
        if cost < least_cost:
            best, least_cost = leading, cost
    return best


def _encoded(rows: torch.Tensor, is_signs: bool) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """(codes, scales (n,) float64 that bfloat16 can hold, lengths (n,) of the residuals) of rows (n, w) float64."""
    if is_signs:
        # The scale at which the residual is shortest: the mean of the absolute numbers.
        signs = rows >= 0
        numbers = signs.double().mul_(2).sub_(1)
        scales = rows.abs().mean(1)
    else:
        scales = rows.abs().amax(1) / GREATEST
    # What is kept is what counts, so the residual is measured from the scale as it is kept.
    scales = _as_float64(_bfloat16_above(scales))
    if is_signs:
        codes = np.packbits(signs.numpy(), axis=1)
    else:
        # A row of zeros is divided by infinity: its codes are zeros.
        numbers = (rows / scales.where(scales > 0, torch.inf)[:, None]).round_()
        codes = numbers.to(torch.int8).numpy()
    residuals = numbers.mul_(scales[:, None]).sub_(rows)
    return codes, scales, _measured(residuals)


def _measured(rows: torch.Tensor) -> torch.Tensor:
    """Lengths (n,) of rows (n, w) float64, none less than the true one."""
    return torch.linalg.vector_norm(rows, dim=1) * (1 + MEASURED) + MEASURED


def _bfloat16_above(numbers: torch.Tensor) -> np.ndarray:
    """The bits (n,) uint16 of the least bfloat16 that are no less than numbers (n,) float64, none of them negative."""
    numbers = numbers.numpy()
    rounded = numbers.astype(np.float32)
    above = np.where(rounded < numbers, np.nextafter(rounded, np.float32(np.inf)), rounded)
    # The upper half of a float32 is a bfloat16; what the lower half holds rounds it up.
    return ((above.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def _as_float64(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64))


def _greatest(column: torch.Tensor) -> float:
    if not len(column):
        return 0.0
    return column.max().item()


def _read_array(path: Path, shape: tuple[int, int], form: str, mmap_mode: str | None = None) -> np.ndarray:
    """An array of codes. Raises InputError for another shape or type than it has to have."""
    array = read_npy(path, mmap_mode)
    if array.shape != shape or array.dtype.str != form or not array.flags.c_contiguous:
        raise InputError(f"{str(path)!r} is damaged: {array.shape} {array.dtype} where {shape} {form} is due")
    return array


def _read_rotation(path: Path, width: int) -> torch.Tensor:
    """The axes (D, D) that rows are turned to. Raises InputError for what is not orthogonal."""
    rotation = torch.from_numpy(_read_array(path, (width, width), "<f8"))
    skew = torch.linalg.matrix_norm(rotation.T @ rotation - torch.eye(width, dtype=torch.float64))
    if not skew <= SKEW:
        raise InputError(f"{str(path)!r} is damaged: its rows are no axes at right angles")
    return rotation
