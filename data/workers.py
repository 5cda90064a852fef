"""The processes that load batches: how many there are, and what becomes of a run when they die or lack memory."""

import os
import re
import shutil
import signal
from pathlib import Path

from core.console import log
from core.errors import InputError
from core.text import counted, plural

FEW_IMAGES = 500  # take less time to load than a process takes to start
MOST_WORKERS = 8
SHARED_MEMORY = Path("/dev/shm")  # where batches pass from process to process
PREFETCHED = 2  # batches that torch lets each process make ahead

# What torch says where a loading process is gone, or where the memory that they share does not suffice.
LOST = re.compile(r"DataLoader worker.*(exited unexpectedly|killed by signal)", re.DOTALL)
SHARED = re.compile(r"shared memory|\(shm\)|unable to mmap|unable to write to file </torch|No space left on device")


def worker_count(workers: int | str, images: int) -> int:
    """Processes to load so many images: as asked, or for "auto" one a core beside the training thread.

    Then it is at least one and at most eight, and none for so few images that starting one takes longer than loading
    them. Training processes of torchrun share the cores.
    """
    if workers != "auto":
        return workers
    if images < FEW_IMAGES:
        return 0
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    cores //= _local_processes()
    return max(1, min(cores - 1, MOST_WORKERS))


def workers_that_fit(workers: int, batch_bytes: int) -> int:
    """So many loading processes, or fewer where the memory that they share does not hold their batches.

    batch_bytes: of one batch; a process makes PREFETCHED of them ahead, and one is in use. Containers often have 64 MB.
    """
    if not workers or not batch_bytes or not SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(SHARED_MEMORY).free // _local_processes()
    fitting = max(0, free // batch_bytes - 1) // PREFETCHED
    if fitting >= workers:
        return workers
    if fitting:
        consequence = f"{fitting} of {counted(workers, 'loading process')} {plural(fitting, 'is', 'are')} started"
    else:
        consequence = "this process loads images itself"
    log(
        f"note: {SHARED_MEMORY} has room for {free / 1e6:,.0f} MB and a batch takes {batch_bytes / 1e6:,.1f} MB, so "
        f"{consequence}; docker run --shm-size=2g gives it more"
    )
    return fitting


def _local_processes() -> int:
    """Training processes of torchrun on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def leave_process_group() -> None:
    """For a worker process: a terminal or a scheduler signals the whole group, and the run still needs its batches."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()


def ignore_worker_deaths() -> None:
    """From now on no loading process's death is raised here: for who is about to end and has a last thing to say."""
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def loading_failure(error: Exception) -> InputError | None:
    """What an error of the processes that load images means to the user; None where it is another error."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
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
