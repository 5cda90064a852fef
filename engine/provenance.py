"""What a run was made of: its flags, versions and lists, so that it can be made again and told from another."""

import json
from pathlib import Path

import torch

import distributed
from core.versions import versions


def describe_run(
    flags: dict[str, object], device: torch.device, precision: str, lists: dict[str, dict[str, object]]
) -> dict[str, object]:
    """What config.json holds. flags: all of them, with the values in use; lists: {split: list_facts}."""
    return {
        "flags": flags,
        "versions": versions(),
        "device": str(device),
        "precision": precision,
        "ranks": distributed.world_size(),
        "launch": distributed.launch_id(),
        "lists": lists,
    }


def of_this_launch(folder: str | Path) -> bool:
    """Whether this launch of torchrun began the run in `folder`, and so must have restarted since."""
    try:
        begun_by = json.loads(Path(folder, "config.json").read_text())["launch"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return begun_by is not None and begun_by == distributed.launch_id()
