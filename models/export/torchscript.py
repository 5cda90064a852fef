"""A network as TorchScript: what C++ and mobile programs of torch load, without this repository."""

from pathlib import Path

import torch
from torch import nn

from core.errors import InputError, first_line
from models.export.network import example_crops
from models.export.quiet import quietly


def write_torchscript(network: nn.Module, image_shape: tuple[int, int, int], path: Path) -> nn.Module:
    """Write an ExportedNetwork by tracing: uint8 crops (B, 3, height, width) to embeddings, B any number.

    Returns the network of the file, read back. Raises InputError for a network that cannot be traced.
    """
    try:
        with quietly(), torch.no_grad():
            traced = torch.jit.trace(network, example_crops(image_shape), check_trace=False)
            traced.save(str(path))
            return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise InputError(f"--export=torchscript: the network cannot be traced: {first_line(error)}") from None
