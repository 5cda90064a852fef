"""Several processes that work as one (torchrun): who this one is, how they meet, and what if one is lost.

Without torchrun there is one rank, and everything here hands back what it was given. What must not keep others waiting
has a minute; what the first rank does alone, such as a test's search or a checkpoint, has a day.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from core.errors import InputError
from core.ranks import rank, world_size

STEP_SECONDS = 60  # for all to come to what they do together
ALONE_SECONDS = 24 * 3600  # for what the first does while the others wait
ANSWER_SECONDS = 10  # for the others to say that they are there, once one is lost


def stand_alone() -> tuple[int, int]:
    """(rank, number of ranks) as this process was started; from now on it works by itself, and meets no other.

    Raises InputError where the environment tells of a rank that cannot be.
    """
    texts = (os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))
    if not all(text.isascii() and text.isdigit() for text in texts) or not int(texts[0]) < int(texts[1]):
        raise InputError(f"RANK is {texts[0]} and WORLD_SIZE {texts[1]}; ranks are 0 to WORLD_SIZE - 1")
    os.environ["RANK"], os.environ["WORLD_SIZE"] = "0", "1"
    return int(texts[0]), int(texts[1])


def launch_id() -> str | None:
    """What tells this launch of torchrun from all others and is the same when it restarts; None without torchrun."""
    # LAUNCH/attempt_0/rank/error.json, where the launch's folder has a random name.
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return None
    return str(Path(file).parents[2])


def _attempt() -> str:
    """How often torchrun has restarted the processes."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def init(device: torch.device) -> None:
    """Meet the other ranks, which have a minute to come; tensors may be on `device` or on the CPU from now on.

    Raises InputError when they do not come.
    """
    if world_size() == 1:
        return
    # None: gloo for the CPU and the accelerator's own.
    backend = None
    if device.type == "cpu":
        backend = "gloo"
    timeout = timedelta(seconds=STEP_SECONDS)
    with all_present():
        store, *_ = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun's store outlives a restart, the addresses in it do not.
        store = dist.PrefixStore(f"attempt {_attempt()}", store)
        dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=timeout)
        # All ranks have to make a group at once, so it is made here and not where one first needs it.
        patient_group()


def close() -> None:
    """Part in peace, when all is done."""
    if dist.is_initialized():
        patient_group.cache_clear()
        dist.destroy_process_group()


@functools.cache
def patient_group() -> dist.ProcessGroup:
    """The group of all ranks in which one may wait for the first for long; CPU tensors only."""
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=ALONE_SECONDS))


@contextlib.contextmanager
def all_present() -> Iterator[None]:
    """Turn the failure of what all ranks do together into an InputError that names the ranks that are gone."""
    try:
        yield
    except RuntimeError as error:
        gone = _missing()
        if not gone:
            names = "another rank"
        elif len(gone) == 1:
            names = f"rank {gone[0]}"
        else:
            names = f"ranks {', '.join(str(other) for other in gone)}"
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{names} of {world_size()} did not go on ({reason}); what was saved can be gone on with by --checkpoint, "
            "or by torchrun itself with --max_restarts"
        ) from error


def _missing() -> list[int]:
    """Ranks that do not say within ANSWER_SECONDS that they have noticed, too; none where nobody can be asked."""
    keys = [f"noticed {_attempt()} {other}" for other in range(world_size())]
    host = os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=ANSWER_SECONDS))
        store.set(keys[rank()], "")
        while time.monotonic() < deadline and not store.check(keys):
            time.sleep(0.1)
        return [other for other, key in enumerate(keys) if not store.check([key])]
    except RuntimeError:
        return []


def own_slice(number: int) -> slice:
    """Which of so many things this rank has where each has some of them: a slice, one following another."""
    return slice(number * rank() // world_size(), number * (rank() + 1) // world_size())


def barrier() -> None:
    """Wait for all ranks, however long they take."""
    if world_size() > 1:
        with all_present():
            dist.barrier(group=patient_group())


def broadcast_value(number: int) -> int:
    """The integer that the first rank calls this with, on every rank; they wait until it does, however long."""
    if world_size() == 1:
        return number
    value = torch.tensor([int(number)])
    with all_present():
        dist.broadcast(value, 0, group=patient_group())
    return value.item()
