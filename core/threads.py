"""Pieces of work side by side in threads of the CPU, each of which makes torch's operations alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> list[Result]:
    """function(piece) of each piece, in their order; those of the CPU in as many threads as torch has.

    Where a piece is many small operations, threads that share each of them mostly wait for each other. What `function`
    calls must not change what another piece reads.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or min(threads, len(pieces)) < 2:
        return [function(piece) for piece in pieces]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, pieces))
    finally:
        torch.set_num_threads(threads)  # each thread has its own number, but new ones begin with the last that was set
