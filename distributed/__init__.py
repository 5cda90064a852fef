"""Several processes that work as one, named as torch.distributed names things; one alone is a world of size 1."""

from core.ranks import is_first, rank, world_size
from distributed.collectives import (
    all_gather,
    all_reduce_gradients,
    all_reduce_max,
    all_reduce_sum,
    broadcast_tensors,
    gather_batches,
)
from distributed.group import (
    barrier,
    broadcast_value,
    close,
    init,
    launch_id,
    own_slice,
    stand_alone,
)

__all__ = [
    "all_gather",
    "all_reduce_gradients",
    "all_reduce_max",
    "all_reduce_sum",
    "barrier",
    "broadcast_tensors",
    "broadcast_value",
    "close",
    "gather_batches",
    "init",
    "is_first",
    "launch_id",
    "own_slice",
    "rank",
    "stand_alone",
    "world_size",
]
