"""Within-class whitening: relevant component analysis (Bar-Hillel et al., ICML 2003), in retrieval the whitening
that is learned from matching pairs (Radenović et al., 2018, arXiv 1711.02512 §3.3)."""

from typing import Literal

import torch

from core.errors import InputError, unknown
from core.types import AboveZero, AtLeastZero, Share, Width
from solvers._affine import Affine, Clicks, centred, check_dimensions, principal_axes, spread_of
from solvers._registry import SOLVERS

DIRECTIONS = ("pca", "steady")


@SOLVERS.register("whitening", stage="pair")
class Whitening:
    """W (x - mean) with W = S^(-1/2), S = D'D/N + epsilon mean(diag S) I: directions in which images of one label
    differ count little. D: each feature less the mean of its label, for the N rows that share theirs.

    Pairs that people called the same say more of such directions: with R the mean of d d' / 2 over their differences d,
    S becomes S + right_weight D R / tr(S^(-1) R), as pairs beside labels are in relevant component analysis. Directions
    in which pairs differ that they called not the same count more: behind W stands (I + wrong_weight D Q / tr Q)^(1/2),
    Q the mean of such d d' once whitened (Hoi et al., CVPR 2006, have both kinds in one ratio; Köstinger et al., CVPR
    2012, in one difference). D: how many numbers a feature has. No direction is forgotten of which the train list told.

    With total_share t, D'D/N is (1 - t) D'D/N + t times the covariance of all features: a bit of ordinary whitening,
    since few images of a label say little of the directions in which they happen not to differ.

    Options:
        epsilon: how far all directions are treated alike, as a share of the mean variance within labels
        total_share: share of the covariance of all features in what is whitened
        dimensions: of the embedding; 0: those of the feature
        directions: that are left: pca: in which whitened train features vary most; steady: in which a label's images
            vary least
        right_weight: of pairs of --feedback that are the same
        wrong_weight: of pairs of --feedback that are not
    """

    def __init__(
        self,
        epsilon: AboveZero = 0.1,
        total_share: Share = 0.0,
        dimensions: Width = 0,
        directions: Literal["pca", "steady"] = "pca",
        right_weight: AtLeastZero = 0.1,
        wrong_weight: AtLeastZero = 0.03,
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
        self.right_weight = right_weight
        self.wrong_weight = wrong_weight

    def solve(self, features: torch.Tensor, codes: torch.Tensor, clicks: Clicks | None = None) -> Affine:
        """The Affine of features (N, D) on the CPU with labels (N,) 0..C-1, and of pairs beside them.

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
        noise = covariance + ridge
        if clicks is not None and len(clicks.right):
            noise = noise + self.right_weight * _scatter(clicks.right, noise)
        variances, axes = principal_axes(noise)
        whitened_axes = variances.rsqrt()[:, None] * axes
        if self.dimensions and self.directions == "steady":
            # Variances fall, so that the last directions are the steadiest.
            return centred(whitened_axes[-self.dimensions :], spread)
        weight = axes.T @ whitened_axes
        if clicks is not None and len(clicks.wrong):
            identity = torch.eye(len(weight), dtype=torch.float64)
            stretch = identity + self.wrong_weight * _scatter(clicks.wrong.double() @ weight.T, identity)
            variances, axes = principal_axes(stretch)
            weight = (axes.T * variances.sqrt()) @ axes @ weight
        if self.dimensions:
            _, axes = principal_axes(weight @ spread.total @ weight.T)
            weight = axes[: self.dimensions] @ weight
        return centred(weight, spread)


def _scatter(differences: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The scatter (D, D) of differences (P, D), scaled to have a mean variance of 1 where `noise` (D, D) has it."""
    differences = differences.double()
    scatter = differences.T @ differences
    strength = torch.linalg.solve(noise, scatter).trace()
    if not strength > 0:  # pairs of the very same picture
        return torch.zeros_like(scatter)
    return len(noise) / strength * scatter
