"""This rank's part of a list's embeddings, to be searched together with those of the others (retrieval/sharded.py)."""

import torch

import distributed
from core.device import search_device
from retrieval.sharded import GalleryShard


def open_shard(embeddings, rows, number, device):
    """The GalleryShard of embeddings (n, D) that are `rows` (n,) int64 of a list of `number`.

    All ranks call it together. device: the one in use; the search runs there if it can on every rank (core/device.py).
    """
    gather, total, highest = map(
        _patient, (distributed.all_gather, distributed.all_reduce_sum, distributed.all_reduce_max)
    )
    place = search_device(device, embeddings)
    if highest(torch.tensor(int(place.type == "cpu"))):
        place = torch.device("cpu")
    return GalleryShard(embeddings.to(place), rows.to(place), number, distributed.world_size(), gather, total, highest)


def _patient(function):
    """`function`, which all ranks call together, where some may come to it long before others."""

    def waited(tensor):
        distributed.barrier()
        return function(tensor)

    return waited
