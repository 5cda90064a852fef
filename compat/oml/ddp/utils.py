"""What several processes of torch.distributed have, put together."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from compat.oml._errors import RefusedType, require
from compat.oml.inference._ranks import is_shared


def is_ddp() -> bool:
    """Whether processes have met, one alone included."""
    return dist.is_available() and dist.is_initialized()


def get_world_size_safe() -> int:
    """How many processes there are; 0 where none have met."""
    return dist.get_world_size() if is_ddp() else 0


def is_main_process() -> bool:
    """Whether this is the first process, or the only one."""
    return not is_ddp() or dist.get_rank() == 0


def merge_list_of_dicts(list_of_dicts: Sequence[dict[str, Any]], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Dicts of lists, arrays and tensors under the same keys as one, in order. device: of tensors."""
    kinds = [{key: type(column) for key, column in columns.items()} for columns in list_of_dicts]
    require(all(kind == kinds[0] for kind in kinds), "the dicts differ in keys or in kinds of columns")
    merged = {}
    for key, kind in kinds[0].items():
        parts = [columns[key] for columns in list_of_dicts]
        if issubclass(kind, torch.Tensor):
            merged[key] = torch.cat([part.to(device) for part in parts])
        elif issubclass(kind, np.ndarray):
            merged[key] = np.concatenate(parts)
        elif issubclass(kind, (list, tuple)):
            merged[key] = kind(chain(*parts))
        else:
            raise RefusedType(f"{key!r} is {kind.__name__}; lists, tuples, arrays and tensors can be put together")
    return merged


def sync_dicts_ddp(
    outputs_from_device: dict[str, Any], world_size: int, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The dicts of all processes as one, which each of them gets; a process alone keeps its own."""
    if not is_shared():
        return outputs_from_device
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, outputs_from_device)
    return merge_list_of_dicts(gathered, device)


__all__ = ["get_world_size_safe", "is_ddp", "is_main_process", "merge_list_of_dicts", "sync_dicts_ddp"]
