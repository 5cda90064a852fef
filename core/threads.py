"""Pieces of work side by side in threads of the CPU, each of which makes torch's operations alone."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def workers(device: torch.device) -> int:
    """How many threads work side by side: as many as torch has on the CPU, one for another device."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(function: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> list[Result]:
    """function(piece) of each piece, in their order; those of the CPU in as many threads as torch has.

    Where a piece is many small operations, threads that share each of them mostly wait for each other. What `function`
    calls must not change what another piece reads.
    """
    threads = workers(device)
    if min(threads, len(pieces)) < 2:
        return [function(piece) for piece in pieces]
    with _pool(threads) as pool:
        return list(pool.map(function, pieces))


def draw_side_by_side(work: Callable[[Iterator[Piece]], None], pieces: Iterator[Piece], device: torch.device) -> None:
    """Call work(pieces) in each of `workers` threads; all draw from the same pieces, which are made as they are drawn.

    What `work` changes it has to lock. If one thread fails, the others draw no more.
    """
    threads = workers(device)
    if threads < 2:
        work(pieces)
        return
    lock = threading.Lock()
    is_over = threading.Event()

    def drawn() -> Iterator[Piece]:
        while not is_over.is_set():
            with lock:
                piece = next(pieces, is_over)
            if piece is is_over:
                return
            yield piece

    with _pool(threads) as pool:
        try:
            for done in as_completed([pool.submit(work, drawn()) for _ in range(threads)]):
                done.result()
        finally:
            is_over.set()


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch has one thread."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # each thread has its own number, but new ones begin with the last that was set
