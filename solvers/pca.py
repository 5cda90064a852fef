"""Principal components of all train features, whatever their labels."""

import torch

from core.errors import InputError
from core.types import AtLeastZero, Width
from solvers._affine import Affine, centred, check_dimensions, principal_axes, spread_of
from solvers._registry import SOLVERS

LEAST = 1e-12  # of the largest variance: what is smaller is rounding, and is not blown up


@SOLVERS.register("pca", stage="pair")
class Pca:
    """V (x - mean): the directions in which features vary most, each divided by its variance to the given power.

    Options:
        dimensions: of the embedding; 0: those of the feature
        power: 0: features are rotated; 0.5: whitened, every direction counts alike
    """

    def __init__(self, dimensions: Width = 0, power: AtLeastZero = 0.0) -> None:
        if not power >= 0:
            raise InputError(f"power={power} is below 0")
        self.dimensions = dimensions
        self.power = power

    def solve(self, features: torch.Tensor, codes: torch.Tensor) -> Affine:
        """The Affine of features (N, D) on the CPU with labels (N,). Raises InputError where all are the same."""
        check_dimensions(self.dimensions, features.shape[1])
        spread = spread_of(features, codes)
        variances, axes = principal_axes(spread.total)
        factors = variances.clamp(min=LEAST * variances[0]) ** -self.power
        weight = factors[:, None] * axes
        return centred(weight[: self.dimensions or None], spread)
