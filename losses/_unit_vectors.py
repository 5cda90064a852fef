"""Rows scaled to length one, and what a row without a direction becomes."""

import math

import torch

SHORTEST = 1e-12  # a row shorter than this has no direction


def normalise(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, D) scaled to length one; a row shorter than 1e-12 becomes zero and gets no gradient (never NaN)."""
    return rows / lengths(rows)[:, None]


def lengths(rows: torch.Tensor) -> torch.Tensor:
    """Divisors (N,) that scale rows (N, D) to length one: their lengths, or infinity below 1e-12."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.where(norms > SHORTEST, norms, math.inf)
