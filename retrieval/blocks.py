"""Scores of all pairs, block by block, within a budget of memory; a symmetric matrix is multiplied once."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from core.slices import slices_of, slices_within, step_within
from core.threads import draw_side_by_side, workers
from retrieval.exact import Side
from retrieval.product_type import multiply, product_dtype
from retrieval.scores import Scores

LARGEST_SIDE, SMALLEST_SIDE = 2048, 16  # rows of a block: below 1024 products lose speed, above 2048 they gain little
SHARED_BLOCKS, LEAST_SHARED_SIDE = 8, 256  # blocks for each thread if they are no smaller than this
FEWEST_SHARES = 4  # of the memory, one for each thread: their blocks stay in a processor's caches
LARGEST_DEVICE_SIDE = 8192  # on an accelerator, where a block costs some hundred launches


@dataclass(frozen=True)
class Block:
    """scores (m, n) of the queries at `rows` against the gallery at `columns`, slices of the positions asked for.

    The scores may be written over. `mirrored`: they also are the scores of the queries at `columns` against `rows`.
    """

    scores: torch.Tensor
    rows: slice
    columns: slice
    mirrored: bool


class _Factors(NamedTuple):
    """What a Block's scores are the product of."""

    left: torch.Tensor
    right: torch.Tensor
    rows: slice
    columns: slice
    mirrored: bool


@dataclass(frozen=True)
class Products:
    """The scores of the positions queries (Q,) against gallery (G,), to be gone through block by block.

    dtype: int8, bfloat16 or float32 for fast scores, in fast units (retrieval/scores.py), those of int8 whole ones in
    int32; float64 for exact ones, which come as float32. memory: bytes for scores and factors together, half of which
    the blocks take. symmetric: queries and gallery are the same positions; then each pair of blocks is multiplied once,
    and those on the diagonal come before others of their rows and columns.
    """

    scores: Scores
    queries: torch.Tensor
    gallery: torch.Tensor
    dtype: torch.dtype
    memory: int
    symmetric: bool = False

    def __iter__(self) -> Iterator[Block]:
        """Every Block, one after the other."""
        side = self._side(self.memory)
        buffer = self._buffer(side * side)
        for factors in self._factors(side):
            yield self._block(factors, buffer)

    def each(self, function: Callable[[Block], None], wanted: Callable[[slice, slice], bool] | None = None) -> None:
        """function(block) of every Block: on the CPU as many side by side as torch has threads. wanted(rows, columns):
        whether a block is needed.

        Threads that share a product and each small step after it wait for each other after each of them; here each has
        a block of its own. What `function` changes it has to lock.
        """
        threads = workers(self.gallery.device)
        shares = max(threads, FEWEST_SHARES) if threads > 1 else 1
        side = self._side(self.memory // shares)
        # Some blocks for each thread, so that none is left without.
        pairs = len(self.queries) * len(self.gallery)
        while side > LEAST_SHARED_SIDE and threads > 1 and SHARED_BLOCKS * threads * side**2 > pairs:
            side //= 2

        def work(pieces: Iterator[_Factors]) -> None:
            buffer = self._buffer(side * side)
            for factors in pieces:
                function(self._block(factors, buffer))

        # The switches are of all threads, so they are set before there are any, and set back when all have ended.
        with true_float32():
            draw_side_by_side(work, self._factors(side, wanted), self.gallery.device)

    def strips(self) -> Iterator[Block]:
        """Blocks as wide as the gallery, or as memory allows: for who needs all scores of a query at once.

        The queries come in the same slices for each part of the gallery; symmetry is not made use of.
        """
        scores, queries, gallery, dtype = self.scores, self.queries, self.gallery, self.dtype
        columns = max(SMALLEST_SIDE, step_within(scores.width * dtype.itemsize, self.memory // 8))
        columns = min(columns, len(gallery))
        rows = max(SMALLEST_SIDE, step_within(columns * product_dtype(dtype).itemsize, self.memory // 4))
        rows = min(rows, len(queries))
        buffer = self._buffer(rows * columns)
        for panel in slices_of(len(gallery), columns):
            right = whole_factor(scores, "gallery", gallery[panel], dtype)
            for part in slices_of(len(queries), rows):
                left = whole_factor(scores, "query", queries[part], dtype)
                yield self._block(_Factors(left, right, part, panel, mirrored=False), buffer)

    def _side(self, memory: int) -> int:
        return block_side(self.scores.width, self.dtype, memory, self.gallery.device)

    def _buffer(self, numbers: int) -> torch.Tensor:
        return torch.empty(numbers, dtype=product_dtype(self.dtype), device=self.gallery.device)

    def _factors(self, side: int, wanted: Callable[[slice, slice], bool] | None = None) -> Iterator[_Factors]:
        """The factors of all blocks, with `side` rows and columns at most."""
        scores, queries, gallery, dtype = self.scores, self.queries, self.gallery, self.dtype
        # The gallery's factor is made for a panel of several blocks, and kept while all queries pass by.
        panel_step = side * step_within(side * scores.width * dtype.itemsize, self.memory // 16)
        for panel in slices_of(len(gallery), panel_step):
            panel_factor = None
            for rows, columns in _panel_blocks(len(queries), panel, side, self.symmetric):
                if wanted is not None:
                    columns = [column for column in columns if wanted(rows, column)]
                if not columns:
                    continue
                left = None  # the last one is given back before the next is made
                if panel_factor is None:
                    panel_factor = whole_factor(scores, "gallery", gallery[panel], dtype)
                # The rows of a symmetric block are in the panel already, as columns.
                if self.symmetric and rows.start >= panel.start:
                    left = scores.other_side(panel_factor[rows.start - panel.start : rows.stop - panel.start])
                else:
                    left = whole_factor(scores, "query", queries[rows], dtype)
                for column in columns:
                    right = panel_factor[column.start - panel.start : column.stop - panel.start]
                    yield _Factors(left, right, rows, column, self.symmetric and column.start != rows.start)

    def _block(self, factors: _Factors, buffer: torch.Tensor) -> Block:
        """The product of two factors, in a buffer of m x n numbers or more."""
        left, right, rows, columns, mirrored = factors
        product = buffer[: len(left) * len(right)].view(len(left), len(right))
        # Whatever precision the caller has chosen for a network, bounds hold for this one.
        with true_float32(), torch.autocast(left.device.type, enabled=False):
            multiply(left, right, product)
        if self.dtype == torch.float64:
            product = self.scores.from_grid(product)
        return Block(product, rows, columns, mirrored)


def _panel_blocks(query_count: int, panel: slice, side: int, symmetric: bool) -> list[tuple[slice, list[slice]]]:
    """The blocks of one panel of gallery columns: slices of queries, each with its slices of columns."""
    columns = slices_of(panel.stop, side, panel.start)
    if not symmetric:
        return [(rows, columns) for rows in slices_of(query_count, side)]
    # The diagonal first, then what is right of it, from the first row on.
    blocks = [(column, [column]) for column in columns]
    for rows in slices_of(panel.stop, side):
        blocks.append((rows, [column for column in columns if column.start > rows.start]))
    return blocks


def block_side(width: int, dtype: torch.dtype, memory: int, device: torch.device) -> int:
    """Rows of a square block whose scores and two factors of `dtype` take no more than half of `memory`."""
    side = LARGEST_SIDE if device.type == "cpu" else LARGEST_DEVICE_SIDE
    score_bytes = product_dtype(dtype).itemsize
    while side > SMALLEST_SIDE and max(side * score_bytes, 2 * width * dtype.itemsize) * side > memory // 4:
        side //= 2
    return side


def whole_factor(scores: Scores, side: Side, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The factor of many positions, made some rows at a time."""
    factor = None
    for part in slices_within(len(positions), scores.width, scores.at_once):
        rows = scores.factor(side, positions[part], dtype)
        if factor is None:
            factor = rows.new_empty(len(positions), rows.shape[1])
        factor[part] = rows
    return factor


def share_a_code(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two columns of codes have a value in common; cheap where one lies above the other."""
    # Both are sorted by label where this is asked, so ranges of labels seldom meet.
    are_apart = (left.min() > right.max()) | (right.min() > left.max())
    return not are_apart and bool(torch.isin(left, right).any())


@contextlib.contextmanager
def true_float32() -> Iterator[None]:
    """Products of float32 in float32: no TF32, no bfloat16 inside, whatever the caller allows elsewhere."""
    cuda = torch.backends.cuda.matmul
    if hasattr(cuda, "fp32_precision"):
        # Newer torch has one switch for each backend.
        switches = [(cuda, "fp32_precision", "ieee")]
        if hasattr(torch.backends.mkldnn, "matmul"):
            switches.append((torch.backends.mkldnn.matmul, "fp32_precision", "ieee"))
    else:  # older torch
        switches = [(cuda, "allow_tf32", False)]
    switches.append((cuda, "allow_bf16_reduced_precision_reduction", False))
    before = [getattr(backend, name) for backend, name, _ in switches]
    try:
        for backend, name, value in switches:
            setattr(backend, name, value)
        yield
    finally:
        for (backend, name, _), value in zip(switches, before):
            setattr(backend, name, value)
