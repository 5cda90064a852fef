"""The processes that load images: what becomes of a run when they die or lack memory to share."""

import os
import re
import signal

from core.errors import InputError

# What torch says where a loading process is gone, or where the memory that they share does not suffice.
LOST = re.compile(r"DataLoader worker.*(exited unexpectedly|killed by signal)", re.DOTALL)
SHARED = re.compile(r"shared memory|\(shm\)|unable to mmap|unable to write to file </torch|No space left on device")


def loading_failure(error: Exception) -> InputError | None:
    """What an error of the processes that load images means to the user; None where it is another error."""
    text = str(error)
    reason = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
    if SHARED.search(text):
        return InputError(
            f"the processes that load images need more shared memory than /dev/shm has ({reason}): give it more, as by "
            "docker run --shm-size=2g, or load without them by --num_workers=0"
        )
    # A process that dies while it hands a batch over leaves a connection that ends.
    if LOST.search(text) or isinstance(error, (ConnectionError, EOFError)):
        return InputError(
            f"a process that loads images is gone ({reason}), which is what happens where memory runs out: give fewer "
            "--num_workers (0: none beside this process) or smaller batches"
        )
    return None


def ignore_their_end():
    """From now on no loading process's death is raised here: for who is about to end and has a last thing to say."""
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def leave_the_group():
    """For a worker process: a terminal or a scheduler signals the whole group, and the run still needs its batches."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
