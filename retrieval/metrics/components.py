"""How many principal components hold how much of the variance of embeddings."""

from collections.abc import Sequence

import numpy as np
import torch

from core.errors import InputError
from core.slices import CACHED_NUMBERS, slices_within

NO_VARIANCE = 1e-24  # of the greatest component, beside the squared length of the mean
ROUNDING = 1e-9  # by which a sum of shares may miss the share asked for


@torch.no_grad()
def component_fractions(
    embeddings: np.ndarray | torch.Tensor, variances: Sequence[float] = (0.5, 0.9), definition: str = "standard"
) -> dict[float, float]:
    """Share of all dimensions that hold so much of the variance (pcf), {variance: float in 0 to 1}.

    The least number of principal components whose variances make up the share asked for, over D. oml: one more, counted
    from where that share is passed, which can be more than 1; never NaN here. One row, or equal rows, have no variance
    and need none: 0. embeddings (N, D). Raises InputError for a share outside 0 to 1.
    """
    if not all(0 <= variance <= 1 for variance in variances):
        raise InputError(f"pcf of {tuple(variances)}: a share of the variance lies between 0 and 1")
    table = torch.as_tensor(embeddings)
    count, width = table.shape
    mean = _mean(table)
    # In slices and float64: as exact as an SVD of all rows, without a copy of them.
    scatter = torch.zeros(width, width, dtype=torch.float64, device=table.device)
    for rows in slices_within(count, width, CACHED_NUMBERS):
        centred = table[rows].double() - mean
        scatter += centred.T @ centred
    shares = torch.linalg.eigvalsh(scatter).flip(0).clamp_min(0)
    # What rounding leaves of equal rows is no variance.
    if shares[0] <= NO_VARIANCE * max(1.0, mean.square().sum().item()):
        return {variance: 0.0 for variance in variances}
    if definition == "oml":
        shares = shares[: min(count, width)]
    reached = (shares / shares.sum()).cumsum(0)
    asked = torch.tensor(variances, dtype=torch.float64, device=table.device)
    # OML counts from 0 where a share is passed, and adds one.
    if definition == "oml":
        numbers = torch.searchsorted(reached, asked, right=True) + 1
    else:
        numbers = torch.where(asked > 0, torch.searchsorted(reached, asked - ROUNDING) + 1, 0)
    return dict(zip(variances, (numbers / width).tolist()))


def _mean(table: torch.Tensor) -> torch.Tensor:
    """(D,) float64."""
    if len(table) < 2:
        return table.double().mean(0)
    total = 0
    for rows in slices_within(*table.shape, CACHED_NUMBERS):
        total = total + table[rows].double().sum(0)
    return total / len(table)
