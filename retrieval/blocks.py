"""Scores of all pairs, block by block, within a budget of memory; a symmetric matrix is multiplied once."""

import contextlib
from dataclasses import dataclass

import torch

from retrieval.rows import pieces

LARGEST_SIDE, SMALLEST_SIDE = 4096, 16  # rows of a block: below 1024 products lose speed, above 4096 they gain none


@dataclass(frozen=True)
class Block:
    """scores (m, n) of the queries at `rows` against the gallery at `columns`, slices of the places asked for.

    The scores may be written over. `twice`: they also are the scores of the queries at `columns` against `rows`.
    """

    scores: torch.Tensor
    rows: slice
    columns: slice
    twice: bool


def products(space, queries, gallery, dtype, memory, symmetric=False, wanted=None):
    """Yield every Block of the places queries (Q,) against gallery (G,).

    dtype: bfloat16 or float32 for fast scores, in space.fast_units; float64 for exact ones, which come as float32.
    memory: bytes for scores and factors together, half of which these blocks take. symmetric: queries and gallery are
    the same places; then each pair of blocks is multiplied once, and those on the diagonal come before others of their
    rows and columns. wanted(rows, columns): whether a block is needed.
    """
    side = block_side(space.width, dtype.itemsize, memory)
    buffer = torch.empty(side * side, dtype=dtype, device=gallery.device)
    for start, stop in _spans(0, len(gallery), side * max(1, memory // 16 // (side * space.width * dtype.itemsize))):
        panel = None
        for rows, columns in _pairs(len(queries), start, stop, side, symmetric):
            columns = [one for one in columns if wanted is None or wanted(rows, one)]
            if not columns:
                continue
            own = None  # given back before the next is made
            if panel is None:
                panel = operand(space, "gallery", gallery[start:stop], dtype)
            if symmetric and rows.start >= start:
                own = space.turned(panel[rows.start - start : rows.stop - start])
            else:
                own = operand(space, "query", queries[rows], dtype)
            for one in columns:
                right = panel[one.start - start : one.stop - start]
                scores = buffer[: len(own) * len(right)].view(len(own), len(right))
                with true_float32(), torch.autocast(own.device.type, enabled=False):
                    torch.mm(own, right.T, out=scores)
                scores = space.score(scores) if dtype == torch.float64 else scores
                yield Block(scores, rows, one, symmetric and one.start != rows.start)


def _spans(start, stop, step):
    return [(left, min(left + step, stop)) for left in range(start, stop, step)]


def _pairs(queries, start, stop, side, symmetric):
    """The blocks of one panel of gallery columns, start to stop: slices of rows, each with its slices of columns."""
    columns = [slice(*span) for span in _spans(start, stop, side)]
    rows = [slice(*span) for span in _spans(0, stop if symmetric else queries, side)]
    if not symmetric:
        return [(row, columns) for row in rows]
    diagonal = [(column, [column]) for column in columns]
    return diagonal + [(row, [column for column in columns if column.start > row.start]) for row in rows]


def block_side(width, itemsize, memory):
    """Rows of a square block whose scores and two factors take no more than half of `memory`."""
    side = LARGEST_SIDE
    while side > SMALLEST_SIDE and max(side, 2 * width) * side * itemsize > memory // 4:
        side //= 2
    return side


def operand(space, side, places, dtype):
    """space.operand of many places, made piece by piece."""
    made = None
    for part in pieces(len(places), space.width):
        rows = space.operand(side, places[part], dtype)
        if made is None:
            made = rows.new_empty(len(places), rows.shape[1])
        made[part] = rows
    return made


def overlap(left, right):
    """Whether two columns of codes have a value in common; cheap where one lies above the other."""
    apart = (left.min() > right.max()) | (right.min() > left.max())
    return not apart and bool(torch.isin(left, right).any())


@contextlib.contextmanager
def true_float32():
    """Products of float32 in float32: no TF32, no bfloat16 inside, whatever the caller allows elsewhere."""
    switches = [torch.backends.cuda.matmul]
    if hasattr(torch.backends.mkldnn, "matmul"):
        switches.append(torch.backends.mkldnn.matmul)
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        before = [switch.fp32_precision for switch in switches]
        names = ["fp32_precision"] * len(switches)
        values = ["ieee"] * len(switches)
    else:
        before, names, values = [torch.backends.cuda.matmul.allow_tf32], ["allow_tf32"], [False]
    try:
        for switch, name, value in zip(switches, names, values):
            setattr(switch, name, value)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        yield
    finally:
        for switch, name, value in zip(switches, names, before):
            setattr(switch, name, value)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
