"""Files of which one process at a time has the right to write."""

import os
import weakref
from typing import IO

_locked: weakref.WeakSet[IO] = weakref.WeakSet()


def lock_for_writing(file: IO) -> None:
    """Take an open file for this process until it is closed. Raises BlockingIOError where another one has it.

    Processes that are forked meanwhile, such as those that load images, do not hold it: where this one is killed they
    live on for some seconds, in which what it did could not be gone on with.
    """
    try:
        import fcntl
    except ImportError:  # on Windows, where nobody else is asked
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locked.add(file)


def _let_go() -> None:
    """In a forked process: its copies of the files are closed, which leaves the lock with the process that took it."""
    for file in list(_locked):
        file.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)
