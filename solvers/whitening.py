"""Within-class whitening: relevant component analysis (Bar-Hillel et al., ICML 2003), in retrieval the whitening
that is learned from matching pairs (Radenović et al., 2018, arXiv 1711.02512 §3.3)."""

from typing import Literal

import torch

from core.errors import InputError, unknown
from core.types import AboveZero, Share, Width
from solvers._affine import Affine, centred, check_dimensions, principal_axes, spread_of
from solvers._registry import SOLVERS

DIRECTIONS = ("pca", "steady")


@SOLVERS.register("whitening", stage="pair")
class Whitening:
    """W (x - mean) with W = S^(-1/2), S = D'D/N + epsilon mean(diag S) I: directions in which images of one label
    differ count little. D: each feature less the mean of its label, for the N rows that share theirs.

    With total_share t, D'D/N is (1 - t) D'D/N + t times the covariance of all features: a bit of ordinary whitening,
    since few images of a label say little of the directions in which they happen not to differ.

    Options:
        epsilon: how far all directions are treated alike, as a share of the mean variance within labels
        total_share: share of the covariance of all features in what is whitened
        dimensions: of the embedding; 0: those of the feature
        directions: that are left: pca: in which whitened train features vary most; steady: in which a label's images
            vary least
    """

    def __init__(
        self,
        epsilon: AboveZero = 0.1,
        total_share: Share = 0.0,
        dimensions: Width = 0,
        directions: Literal["pca", "steady"] = "pca",
    ) -> None:
        if not epsilon > 0:
            raise InputError(f"epsilon={epsilon} is not above 0")
        if not 0 <= total_share <= 1:
            raise InputError(f"total_share={total_share} is outside 0 to 1")
        if directions not in DIRECTIONS:
            raise unknown("directions", directions, DIRECTIONS)
        self.epsilon = epsilon
        self.total_share = total_share
        self.dimensions = dimensions
        self.directions = directions

    def solve(self, features: torch.Tensor, codes: torch.Tensor) -> Affine:
        """The Affine of features (N, D) on the CPU with labels (N,) 0..C-1.

        Raises InputError where no two share a label, or all that do are the same.
        """
        check_dimensions(self.dimensions, features.shape[1])
        spread = spread_of(features, codes)
        if not spread.shared:
            raise InputError("no two train images share a label, so that there is no pair to learn from")
        covariance = (1 - self.total_share) * spread.within + self.total_share * spread.total
        mean_variance = covariance.diagonal().mean()
        if not spread.within.diagonal().mean() > 0:
            raise InputError("the features of each train label are all the same, so that no direction is noise")
        ridge = self.epsilon * mean_variance * torch.eye(len(spread.mean), dtype=torch.float64)
        variances, axes = principal_axes(covariance + ridge)
        whitened_axes = variances.rsqrt()[:, None] * axes
        if self.dimensions and self.directions == "steady":
            # Variances fall, so that the last directions are the steadiest.
            return centred(whitened_axes[-self.dimensions :], spread)
        weight = axes.T @ whitened_axes
        if self.dimensions:
            _, axes = principal_axes(weight @ spread.total @ weight)
            weight = axes[: self.dimensions] @ weight
        return centred(weight, spread)
