"""Files of which one process at a time has the right to write."""

import functools
import os
import weakref
from typing import IO


def lock_for_writing(file: IO, wait: bool = False) -> None:
    """Take an open file for this process until it is closed. Where another one has it, `wait` until it lets go; raises
    BlockingIOError otherwise.

    Processes that are forked meanwhile, such as those that load images, do not hold it: where this one is killed they
    live on for some seconds, in which what it did could not be gone on with.
    """
    try:
        import fcntl
    except ImportError:  # on Windows, where nobody else is asked
        return
    kind = fcntl.LOCK_EX
    if not wait:
        kind |= fcntl.LOCK_NB
    fcntl.flock(file, kind)
    _locked_files().add(file)


@functools.cache
def _locked_files() -> weakref.WeakSet[IO]:
    """The files that this process has taken. In a fork its copies of them are closed, which leaves the lock with it."""
    files: weakref.WeakSet[IO] = weakref.WeakSet()

    def let_go() -> None:
        for file in list(files):
            file.close()

    os.register_at_fork(after_in_child=let_go)
    return files
