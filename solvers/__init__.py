"""Linear layers that are solved instead of learned, by one formula of all train features: a file each."""

from solvers._affine import Affine, Clicks
from solvers._registry import SOLVERS
from solvers.pca import Pca
from solvers.whitening import Whitening

__all__ = ["SOLVERS", "Affine", "Clicks", "Pca", "Whitening"]
