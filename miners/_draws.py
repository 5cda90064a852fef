"""Random numbers of miners: the same on every rank, and the same again where a run goes on."""

import torch

import distributed


def shared_generator(device: torch.device) -> torch.Generator:
    """A generator on `device`, seeded by a draw from torch's own on the first rank, whose state a checkpoint holds."""
    seed = distributed.broadcast_value(int(torch.randint(2**62, ())))
    return torch.Generator(device).manual_seed(seed)
