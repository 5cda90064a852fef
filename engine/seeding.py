"""The random generators of torch, numpy and python: seeded together, and as plain values for a checkpoint."""

import random

import numpy as np
import torch


def seed_everything(seed):
    """Seed torch, numpy and python: a loss may draw from any of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def numpy_state():
    """numpy's generator as plain numbers and one tensor."""
    state = np.random.get_state(legacy=False)
    plain = {name: state[name] for name in ("bit_generator", "has_gauss", "gauss")}
    return {**plain, "pos": state["state"]["pos"], "key": torch.from_numpy(state["state"]["key"].astype(np.int64))}


def set_numpy_state(plain):
    key = plain["key"].numpy().astype(np.uint32)
    np.random.set_state({**plain, "state": {"key": key, "pos": plain["pos"]}})
