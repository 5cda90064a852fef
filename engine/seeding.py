"""The random generators of torch, numpy and python: seeded together, and as plain values for a checkpoint."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and python: a loss may draw from any of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def numpy_state() -> dict[str, object]:
    """numpy's generator as plain numbers and one tensor, which a checkpoint may hold."""
    state = np.random.get_state(legacy=False)
    return {
        "bit_generator": state["bit_generator"],
        "has_gauss": state["has_gauss"],
        "gauss": state["gauss"],
        "pos": state["state"]["pos"],
        "key": torch.from_numpy(state["state"]["key"].astype(np.int64)),
    }


def set_numpy_state(plain: dict[str, object]) -> None:
    """Put numpy's generator where it was when `numpy_state` was called."""
    key = plain["key"].numpy().astype(np.uint32)
    np.random.set_state({**plain, "state": {"key": key, "pos": plain["pos"]}})


def device_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that a network on `device` draws from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def set_device_state(device: torch.device, state: torch.Tensor) -> None:
    """Undo what was drawn on `device` since `state` was taken."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
