"""How a script begins and ends: a user's mistake is a sentence and the status 2."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import InputError, Stopped
from core.ranks import is_first, rank, world_size
from data.workers import ignore_worker_deaths, loading_failure


def run_script(main: Callable[[Sequence[str]], None]) -> None:
    """Call main(argv); a user's mistake ends in sentences and exit status 2, a signal in 128 plus its number."""
    name = Path(sys.argv[0]).name
    look_for_garbage_seldom()
    for stream in (sys.stdout, sys.stderr):
        # A file's name may hold what the terminal cannot show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
        _part_from_other_ranks()
        _end(0)
    except Stopped as stopped:
        if is_first():
            print(f"{name}: stopped by {stopped.signal.name} {stopped}", file=sys.stderr)
        _end(128 + stopped.signal)
    except KeyboardInterrupt:
        print(f"{name}: stopped by SIGINT", file=sys.stderr)
        _end(130)
    except InputError as error:
        _end_in_sentences(name, error)
    except RuntimeError as error:
        # torch reports a loading process's death wherever this one happens to be.
        failure = loading_failure(error)
        if failure is None:
            raise
        _end_in_sentences(name, failure)


def _part_from_other_ranks() -> None:
    # Whoever has not come as far as to load torch has joined no ranks.
    if "torch" in sys.modules:
        import distributed

        distributed.close()


def look_for_garbage_seldom() -> None:
    """Loading torch makes a million objects that stay. To look for garbage among them each time that 700 are there, as
    Python does, takes a seventh of the loading."""
    gc.set_threshold(50_000, 20, 20)


def _end_in_sentences(name: str, error: InputError) -> None:
    ignore_worker_deaths()
    # A loader's worker wraps its error into a traceback, which ends with the sentence.
    sentences = str(error).strip().rpartition("errors.InputError: ")[2]
    if world_size() > 1:
        name += f", rank {rank()}"
    print(f"{name}: {sentences}", file=sys.stderr, flush=True)
    _end(2)


def _end(status: int) -> None:
    """End with a status, or go on to the script's end with 0.

    A logger's thread that is left then waits for a server that does not answer, and so would what its package does when
    Python ends, wandb's for a minute and a half.
    """
    if any(thread.name.startswith("logger ") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
