"""Items shared among the ranks of torch.distributed, whoever has started it; one rank alone has all of them."""

import torch
import torch.distributed as dist


def is_shared() -> bool:
    """Whether there are several ranks that have met."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def own_rows(count: int) -> torch.Tensor:
    """Which of so many items this rank has, (n,) int64; one at least."""
    if not is_shared():
        return torch.arange(count)
    rows = torch.arange(dist.get_rank(), count, dist.get_world_size())
    # Of fewer items than ranks the last one is had by several.
    return rows if len(rows) else torch.tensor([count - 1])


def gathered(rows: torch.Tensor, outputs: torch.Tensor, count: int) -> torch.Tensor:
    """What all ranks made of their rows, (count, ...) in order; the same on every rank."""
    if not is_shared():
        return outputs
    portions = gathered_portions(rows, outputs.cpu())
    everything = outputs.new_empty(count, *outputs.shape[1:])
    for part_rows, part in portions:
        everything[part_rows] = part.to(outputs.device)
    return everything


def gathered_portions(rows: torch.Tensor, outputs: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(rows, outputs) of every rank, outputs being on the CPU."""
    if not is_shared():
        return [(rows, outputs)]
    portions = [None] * dist.get_world_size()
    dist.all_gather_object(portions, (rows, outputs))
    return portions
