"""This rank's shard of a list's embeddings, to be searched together with those of the others (retrieval/sharded.py)."""

from collections.abc import Callable

import torch

import distributed
from core.device import search_device
from retrieval.sharded import GalleryShard


def open_shard(embeddings: torch.Tensor, rows: torch.Tensor, number: int, device: torch.device) -> GalleryShard:
    """The GalleryShard of embeddings (n, D) that are `rows` (n,) int64 of a list of `number`.

    All ranks call it together. device: the one in use; the search runs there if it can on every rank (core/device.py).
    """
    gather = _patient(distributed.all_gather)
    total = _patient(distributed.all_reduce_sum)
    highest = _patient(distributed.all_reduce_max)
    # Shards are searched together, so one that has to stay on the CPU keeps all of them there.
    chosen = search_device(device, embeddings)
    if highest(torch.tensor(int(chosen.type == "cpu"))):
        chosen = torch.device("cpu")
    return GalleryShard(
        embeddings.to(chosen), rows.to(chosen), number, distributed.world_size(), gather, total, highest
    )


def _patient(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """`function`, which all ranks call together, where some may come to it long before others."""

    def waited(tensor: torch.Tensor) -> torch.Tensor:
        distributed.barrier()
        return function(tensor)

    return waited
