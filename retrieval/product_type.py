"""Which type the products of a search are made in: chosen by measuring, and the same answers whichever it is.

A processor may multiply bfloat16 or bytes several times as fast as float32, or emulate them several times as slowly,
and no name of an instruction tells how a library uses it. So each is tried for some milliseconds, once in a process for
each class of widths; a search too small to earn that is made in float32. The trial runs on one thread and takes its CPU
time, which other work on the machine hardly moves: more threads make all types faster alike.
"""

import functools
import math
import time

import torch

from core.device import multiplies_bfloat16

TYPES = (torch.int8, torch.bfloat16, torch.float32)  # from coarse to fine
TRIED_ROWS = (256, 512)  # of the products that are timed
TRIED_WIDTHS = (32, 1024)  # they are no narrower and no wider
ROUNDS = 3  # the best of so many counts, after one that warms up
WORTH_TRYING = 2**23  # pairs of rows for each thread of a search that takes several times as long as the trial
# A coarser type leaves more in doubt, so it may take at most so much of a finer one's time: int8 doubts one query in
# five, and has half as much to do beside its products as for them (benchmarks/search_speed.py).
WORTH = {torch.int8: 0.75, torch.bfloat16: 0.85}
# Looking through what int8 leaves in doubt costs more than it saves for narrower rows; wider ones overflow int32.
LEAST_INT8_COLUMNS, MOST_INT8_COLUMNS = 128, 2**16


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """left (m, D) times right (n, D) into out (m, n): of int8 into int32, and exactly, or all of one floating type."""
    if left.dtype == torch.int8:
        torch._int_mm(left, right.T, out=out)
    else:
        torch.mm(left, right.T, out=out)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which `multiply` leaves the products of a type."""
    return torch.int32 if dtype == torch.int8 else dtype


def in_order_(scores: torch.Tensor) -> torch.Tensor:
    """Scores of bfloat16 as int16 in the same order, in their place: whole numbers are compared ten times as fast.

    Others are left as they are.
    """
    if scores.dtype != torch.bfloat16:
        return scores
    # The bits of floats are in order once those of negative ones are turned round.
    bits = scores.view(torch.int16)
    return bits.bitwise_xor_((bits >> 15).bitwise_and_(0x7FFF))


def out_of_order(numbers: torch.Tensor) -> torch.Tensor:
    """Scores in float32, of what `in_order_` made."""
    if numbers.dtype == torch.int16:
        return (numbers ^ (numbers >> 15 & 0x7FFF)).view(torch.bfloat16).float()
    return numbers


def fastest(device: torch.device, width: int, pairs: int, types: tuple[torch.dtype, ...]) -> torch.dtype:
    """Of the types that a search can begin with, coarse ones first and float32 last, the fastest one on this device.

    pairs: how many rows of how many `width` columns are multiplied with each other.
    """
    if device.type != "cpu":
        is_native = torch.bfloat16 in types and multiplies_bfloat16(device)
        return torch.bfloat16 if is_native else torch.float32
    if pairs < WORTH_TRYING * torch.get_num_threads():
        return torch.float32
    # Widths of one power of 2 are alike.
    width = 2 ** math.ceil(math.log2(min(max(width, TRIED_WIDTHS[0]), TRIED_WIDTHS[1])))
    taken = seconds(width)
    chosen = types[-1]
    for dtype in reversed(types[:-1]):
        if taken[dtype] < WORTH[dtype] * taken[chosen]:
            chosen = dtype
    return chosen


@functools.cache
def seconds(width: int) -> dict[torch.dtype, float]:
    """What a small product takes in each type, with a look at its greatest numbers; infinity for what is not exact."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {dtype: _seconds(dtype, width) for dtype in TYPES}
    finally:
        torch.set_num_threads(threads)


def _seconds(dtype: torch.dtype, width: int) -> float:
    if dtype == torch.int8 and not multiplies_int8():
        return math.inf
    left, right = (torch.ones(rows, width, dtype=dtype) for rows in TRIED_ROWS)
    products = torch.empty(TRIED_ROWS, dtype=product_dtype(dtype))
    # Positive bfloat16 are ordered as their bits are.
    whole_numbers = products.view(torch.int16) if dtype == torch.bfloat16 else products
    taken = []
    for _ in range(1 + ROUNDS):
        start = time.thread_time()
        multiply(left, right, products)
        for axis in (0, 1):
            whole_numbers.amax(axis)
        taken.append(time.thread_time() - start)
    return min(taken[1:])


@functools.cache
def multiplies_int8() -> bool:
    """Whether products of int8 are exact here: some processors add pairs of them in 16 bits, which overflow."""
    if not hasattr(torch, "_int_mm"):
        return False
    # The greatest sums of either sign, and some between them.
    left = torch.tensor([127, -127, 127, -128, 1], dtype=torch.int8)[:, None].repeat(8, 1024)
    left[2::5, ::2] = -127
    products = torch.empty(len(left), len(left), dtype=torch.int32)
    try:
        multiply(left, left, products)
    except RuntimeError:  # not for this processor, or this build of torch
        return False
    return torch.equal(products.double(), left.double() @ left.double().T)
