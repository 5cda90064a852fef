"""What all ranks make of what each holds, with gradients; one rank alone gets back what it hands over."""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import FunctionCtx

from core.ranks import is_first, rank, world_size
from distributed.group import all_present, patient_group

BUCKET = 2**24  # numbers that are summed over the ranks at a time


def all_gather(rows: torch.Tensor) -> torch.Tensor:
    """The rows (n, ...) of all ranks, in order of the ranks, (sum of n, ...); n may differ from rank to rank.

    Every rank has to compute the same from the result: the gradient of its own rows, then, is that of the whole. Only
    the numbers of rows cross the host.
    """
    if world_size() == 1:
        return rows
    return _AllGather.apply(rows)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: torch.Tensor) -> torch.Tensor:
        with all_present():
            counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
            dist.all_gather(counts, torch.tensor([len(rows)]))
            counts = torch.cat(counts).tolist()
            # All ranks have to send tables of one size.
            padded = rows.new_zeros(max(counts), *rows.shape[1:])
            padded[: len(rows)] = rows
            tables = [torch.empty_like(padded) for _ in counts]
            dist.all_gather(tables, padded)
        start = sum(counts[: rank()])
        ctx.rows_of_this_rank = slice(start, start + len(rows))
        return torch.cat([table[:count] for table, count in zip(tables, counts)])

    @staticmethod
    def backward(ctx: FunctionCtx, slope: torch.Tensor) -> torch.Tensor:
        return slope[ctx.rows_of_this_rank]


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of `tensor` over the ranks, which may compute different things from it: its gradient is summed, too."""
    if world_size() == 1:
        return tensor
    return _AllReduceSum.apply(tensor)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        with all_present():
            dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: FunctionCtx, slope: torch.Tensor) -> torch.Tensor:
        return _AllReduceSum.apply(slope)


def all_reduce_max(tensor: torch.Tensor) -> torch.Tensor:
    """The maximum of each number of `tensor` over the ranks, without gradient."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    with all_present():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def all_reduce_gradients(parameters: Iterable[nn.Parameter], over: int = 1) -> None:
    """Replace the gradients of `parameters` by their sums over the ranks, divided by `over`; the same on every rank."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients):
        # One long vector at a time: many short messages would take longer.
        numbers = torch.cat([gradient.flatten() for gradient in bucket])
        with all_present():
            dist.all_reduce(numbers)
        numbers.div_(over)
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, summed in zip(bucket, numbers.split(sizes)):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Lists of tensors, in order, of BUCKET numbers or a few more."""
    buckets = []
    size = BUCKET
    for tensor in tensors:
        if size >= BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Give `tensors` the values that they have on the first rank, in place."""
    if world_size() == 1:
        return
    for tensor in tensors:
        values = tensor.clone(memory_format=torch.contiguous_format)
        with all_present():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def gather_batches(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the pairs (integers (n,), rows (n, D) float32, on the CPU) of all ranks on the first; on others none.

    One of each rank in turn, as long as it has some.
    """
    if world_size() == 1:
        yield from pairs
    elif is_first():
        sources = [iter(pairs)]
        for other in range(1, world_size()):
            sources.append(_received(other))
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
        # An empty shape ends it.
        _send(torch.zeros(2, dtype=torch.int64))


def _send(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        with all_present():
            dist.send(tensor, 0, group=patient_group())


def _received(other: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the pairs that another rank sends, up to an empty one."""
    while True:
        shape = torch.empty(2, dtype=torch.int64)
        with all_present():
            dist.recv(shape, other, group=patient_group())
            numbers = torch.empty(shape[0], dtype=torch.int64)
            rows = torch.empty(*shape)
            if not len(rows):
                return
            dist.recv(numbers, other, group=patient_group())
            dist.recv(rows, other, group=patient_group())
        yield numbers, rows
