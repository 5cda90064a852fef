"""LoRA: a backbone whose matrices stay as they are, beside which products of two thin ones learn."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from core.errors import InputError


class LowRank(nn.Module):
    """W -> W + B A for a matrix W (out, in), with A (rank, in) drawn and B (out, rank) zero at first: W itself.

    Hu et al., 2022, arXiv 2106.09685, §4.1, with alpha equal to the rank.
    """

    def __init__(self, matrix: torch.Tensor, rank: int) -> None:
        super().__init__()
        out_features, in_features = matrix.shape
        self.down = nn.Parameter(matrix.new_empty(rank, in_features))
        self.up = nn.Parameter(matrix.new_zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.addmm(matrix, self.up, self.down)


def add_low_rank(net: nn.Module, rank: int, name: str) -> None:
    """Freeze a network and put a LowRank on every matrix of its attention and linear layers, in place.

    name: of the network, for messages. Raises InputError where it has no such matrix, or none that is of a higher rank.
    """
    net.requires_grad_(False)
    matrices = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            matrices.append((module, "weight"))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            matrices.append((module, "in_proj_weight"))
    if not matrices:
        raise InputError(f"--lora={rank}: {name} has no matrices, but convolutions; it is for transformers")
    smallest = min(min(getattr(module, weight).shape) for module, weight in matrices)
    if rank >= smallest:
        raise InputError(f"--lora={rank} is no low rank for {name}, which has a matrix of rank {smallest}")
    for module, weight in matrices:
        parametrize.register_parametrization(module, weight, LowRank(getattr(module, weight), rank))


def merged(net: nn.Module) -> nn.Module:
    """`net`, in place, with plain matrices that have taken every LowRank in; it computes the same, and faster.

    A copy may be merged alone: torch's own remove_parametrizations changes the class that a module shares with copies.
    """
    for module in list(net.modules()):
        if not parametrize.is_parametrized(module):
            continue
        values = {name: getattr(module, name).detach() for name in module.parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]  # what it was before torch derived one with properties from it
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    return net
