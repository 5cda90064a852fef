"""Exporters that keep their warnings to themselves, and networks that they can follow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of exporters, which are about ways that we chose knowing them; errors are raised."""
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        yield


@contextmanager
def attention_in_parts() -> Iterator[None]:
    """torch's MultiheadAttention computes by operators that exporters know, and not by one of its own, which none does
    and for which a network would be captured in another way, in a minute."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
