"""Which of torchrun's processes this one is; known before torch is imported."""

import os


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this is the one rank that writes and prints."""
    return rank() == 0
