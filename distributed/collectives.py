"""What all ranks make of what each holds, with gradients; one rank alone gets back what it hands over."""

import torch
import torch.distributed as dist

from distributed.group import all_present, is_first, patient_group, rank, world_size

BUCKET = 2**24  # numbers that are summed over the ranks at a time


def all_gather(rows):
    """The rows (n, ...) of all ranks, in order of the ranks, (sum of n, ...); n may differ from rank to rank.

    Every rank has to compute the same from the result: the gradient of its own rows, then, is that of the whole. Only
    the numbers of rows cross the host.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        with all_present():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
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


def all_reduce_sum(tensor):
    """The sum of `tensor` over the ranks, which may compute different things from it: its gradient is summed, too."""
    return tensor if world_size() == 1 else _Total.apply(tensor)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        with all_present():
            dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, slope):
        return _Total.apply(slope)


def all_reduce_max(tensor):
    """The maximum of each number of `tensor` over the ranks, without gradient."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    with all_present():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def all_reduce_gradients(parameters, over=1):
    """Replace the gradients of `parameters` by their sums over the ranks, divided by `over`; the same on every rank."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients):
        numbers = torch.cat([gradient.flatten() for gradient in bucket])
        with all_present():
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
def broadcast_tensors(tensors):
    """Give `tensors` the values that they have on the first rank, in place."""
    for tensor in tensors if world_size() > 1 else ():
        values = tensor.clone(memory_format=torch.contiguous_format)
        with all_present():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def gather_batches(pairs):
    """Yield the pairs (integers (n,), rows (n, D) float32, on the CPU) of all ranks on the first; on others none.

    One of each rank in turn, as long as it has some.
    """
    if world_size() == 1:
        yield from pairs
    elif is_first():
        sources = [iter(pairs), *(_received(other) for other in range(1, world_size()))]
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
        with all_present():
            dist.send(tensor, 0, group=patient_group())


def _received(other):
    """Yield the pairs that another rank sends, up to an empty one."""
    while True:
        shape = torch.empty(2, dtype=torch.int64)
        with all_present():
            dist.recv(shape, other, group=patient_group())
            numbers, rows = torch.empty(shape[0], dtype=torch.int64), torch.empty(*shape)
            if not len(rows):
                return
            dist.recv(numbers, other, group=patient_group())
            dist.recv(rows, other, group=patient_group())
        yield numbers, rows
