"""search.py in a process that is killed just before one of its calls: python tests/killed_search.py STEP PLACES WORDS...

STEP: the number of the call, 0 for none. PLACES: what is counted, of fsync, replace, mkdir, append, with commas. Prints
how many calls there were.
"""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from runs import tiny_backbone  # noqa: E402

import core.arrays  # noqa: E402
import search  # noqa: E402

HOMES = {"fsync": os, "replace": os, "mkdir": os, "append": core.arrays.RowFile}


def main(step, places, words):
    calls = []

    def counting(original):
        def call(*positional, **named):
            calls.append(original)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*positional, **named)

        return call

    with tiny_backbone():
        for name in places.split(","):
            setattr(HOMES[name], name, counting(getattr(HOMES[name], name)))
        search.main(words)
    print("calls", len(calls))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
