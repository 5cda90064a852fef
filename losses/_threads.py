"""Small batches are worked on by one thread.

A pair loss takes dozens of steps over tables of some ten thousand numbers, each some microseconds of work. Threads that
sleep between two of them (core/openmp.py) take longer to wake than what they would take off: up to about 256 rows, one
thread does all steps and both products sooner than two. `python benchmarks/pairs.py --sizes=160` measures it.
"""

import contextlib
from collections.abc import Iterator

import torch

SMALL = 2**16  # numbers of a batch's largest table


@contextlib.contextmanager
def one_thread_if_small(device: torch.device, numbers: int) -> Iterator[None]:
    """Let torch work with one thread in this context if it is about tables of so many numbers, on the CPU."""
    before = torch.get_num_threads()
    if device.type != "cpu" or numbers > SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
