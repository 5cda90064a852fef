"""Several processes that work as one (torchrun): who this one is, what all of them hold, and what if one is lost.

Without torchrun there is one rank, and everything here hands back what it was given. What must not keep others waiting
has a minute; what the first rank does alone, such as a test's search or a checkpoint, has a day.
"""

import contextlib
import functools
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from errors import InputError

STEP_SECONDS = 60  # for all to come to what they do together
ALONE_SECONDS = 24 * 3600  # for what the first does while the others wait
ANSWER_SECONDS = 10  # for the others to say that they are there, once one is lost
BUCKET = 2**24  # numbers that are summed over the ranks at a time


def rank():
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", 0))


def count():
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first():
    """Whether this is the one rank that writes and prints."""
    return rank() == 0


def launch():
    """What tells this launch of torchrun from all others and is the same when it restarts; None without torchrun."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # launch/attempt_0/rank/error.json, the launch's name being random
    return str(Path(file).parents[2]) if file else None


def join(device):
    """Meet the other ranks, which have a minute to come; tensors may be on `device` or on the CPU from now on.

    Raises InputError when they do not come.
    """
    if count() == 1:
        return
    backend = "gloo" if device.type == "cpu" else None  # None: gloo for the CPU and the accelerator's own
    timeout, attempt = timedelta(seconds=STEP_SECONDS), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with _all_present():
        store, *_ = next(dist.rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(f"attempt {attempt}", store)  # torchrun's store outlives a restart, addresses do not
        dist.init_process_group(backend, store=store, rank=rank(), world_size=count(), timeout=timeout)
        _patient()


def leave():
    """Part in peace, when all is done."""
    if dist.is_initialized():
        _patient.cache_clear()
        dist.destroy_process_group()


@functools.cache
def _patient():
    """The group of all ranks in which one may wait for the first for long; CPU tensors only."""
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=ALONE_SECONDS))


@contextlib.contextmanager
def _all_present():
    """Turn the failure of what all ranks do together into an InputError that names the ranks that are gone."""
    try:
        yield
    except RuntimeError as error:
        gone = _missing()
        names = f"rank{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}" if gone else "another rank"
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{names} of {count()} did not go on ({reason}); what was saved can be gone on with by --checkpoint, "
            "or by torchrun itself with --max_restarts"
        ) from error


def _missing():
    """Ranks that do not say within ANSWER_SECONDS that they have noticed, too; none where nobody can be asked."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    names = [f"noticed {attempt} {other}" for other in range(count())]
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        store = dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=ANSWER_SECONDS))
        store.set(names[rank()], "")
        while time.monotonic() < deadline and not store.check(names):
            time.sleep(0.1)
        return [other for other, name in enumerate(names) if not store.check([name])]
    except RuntimeError:
        return []


def gather(rows):
    """The rows (n, ...) of all ranks, in order of the ranks, (sum of n, ...); n may differ from rank to rank.

    Every rank has to compute the same from the result: the gradient of its own rows, then, is that of the whole. Only
    the numbers of rows cross the host.
    """
    return rows if count() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        with _all_present():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
            dist.all_gather(lengths, torch.tensor([len(rows)]))
            lengths = torch.cat(lengths).tolist()
            padded = rows.new_zeros(max(lengths), *rows.shape[1:])
            padded[: len(rows)] = rows
            tables = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(tables, padded)
        start = sum(lengths[: rank()])
        ctx.own = slice(start, start + len(rows))
        return torch.cat([table[:length] for table, length in zip(tables, lengths)])

    @staticmethod
    def backward(ctx, slope):
        return slope[ctx.own]


def total(tensor):
    """The sum of `tensor` over the ranks, which may compute different things from it: its gradient is summed, too."""
    return tensor if count() == 1 else _Total.apply(tensor)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        with _all_present():
            dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, slope):
        return _Total.apply(slope)


def highest(tensor):
    """The maximum of each number of `tensor` over the ranks, without gradient."""
    if count() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    with _all_present():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def share(number):
    """Which of so many things this rank has where each has a part: a slice, one part following another."""
    return slice(number * rank() // count(), number * (rank() + 1) // count())


def sum_gradients(parameters, over=1):
    """Replace the gradients of `parameters` by their sums over the ranks, divided by `over`; the same on every rank."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients):
        numbers = torch.cat([gradient.flatten() for gradient in bucket])
        with _all_present():
            dist.all_reduce(numbers)
        numbers.div_(over)
        for gradient, part in zip(bucket, numbers.split([gradient.numel() for gradient in bucket])):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors):
    """Lists of tensors, in order, of BUCKET numbers or a few more."""
    buckets, size = [], BUCKET
    for tensor in tensors:
        if size >= BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets


@torch.no_grad()
def copy_first(tensors):
    """Give `tensors` the values that they have on the first rank, in place."""
    for tensor in tensors if count() > 1 else ():
        values = tensor.clone(memory_format=torch.contiguous_format)
        with _all_present():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def meet():
    """Wait for all ranks, however long they take."""
    if count() > 1:
        with _all_present():
            dist.barrier(group=_patient())


def first_says(number):
    """The integer that the first rank calls this with, on every rank; they wait until it does, however long."""
    if count() == 1:
        return number
    said = torch.tensor([int(number)])
    with _all_present():
        dist.broadcast(said, 0, group=_patient())
    return said.item()


def in_turn(pairs):
    """Yield the pairs (integers (n,), rows (n, D) float32, on the CPU) of all ranks on the first; on others none.

    One of each rank in turn, as long as it has some.
    """
    if count() == 1:
        yield from pairs
    elif first():
        sources = [iter(pairs), *(_received(other) for other in range(1, count()))]
        while sources:
            for source in list(sources):
                pair = next(source, None)
                if pair is None:
                    sources.remove(source)
                else:
                    yield pair
    else:
        for numbers, rows in pairs:
            _send(torch.tensor(rows.shape), numbers, rows.contiguous())
        _send(torch.zeros(2, dtype=torch.int64))


def _send(*tensors):
    for tensor in tensors:
        with _all_present():
            dist.send(tensor, 0, group=_patient())


def _received(other):
    """Yield the pairs that another rank sends, up to an empty one."""
    while True:
        shape = torch.empty(2, dtype=torch.int64)
        with _all_present():
            dist.recv(shape, other, group=_patient())
            numbers, rows = torch.empty(shape[0], dtype=torch.int64), torch.empty(*shape)
            if not len(rows):
                return
            dist.recv(numbers, other, group=_patient())
            dist.recv(rows, other, group=_patient())
        yield numbers, rows
