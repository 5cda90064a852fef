"""How OpenMP's threads wait for one another. A program imports this before anything that loads OpenMP, as torch does.

A thread that has done its part of a loop keeps asking whether the others have, for milliseconds, unless it is told to
sleep. Asking saves a wake-up where each thread has a core of its own; where another process is on one of the cores, it
takes the core from the very thread that it waits for. `python benchmarks/threads.py` measures both.
"""

import os
from collections.abc import Mapping

# Each says how to wait: the standard's own, that of GNU's library (libgomp), that of LLVM's and Intel's (libomp).
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's library takes the more exact one: 1000 questions are some microseconds, as long as two parts of a loop differ.
POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to `environment`: nothing where it says itself how to wait."""
    if any(name in environment for name in NAMES):
        return {}
    return POLICY


# Here and not in a function, since the library reads it once, when it is loaded, which imports further down cause. Too
# late it has no effect on this process. Processes that this one starts inherit it.
os.environ.update(settings(os.environ))
