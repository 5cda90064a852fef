"""EasyDL's points of a plane, to try figures on."""

import numpy as np

from core.errors import InputError
from core.text import counted


def generate_2d_gaussian_points(
    N: int, mean: np.ndarray, cov: np.ndarray | float, random_seed: int | None = None
) -> np.ndarray:
    """N points (N, 2) of a Gaussian with that mean (2,) and covariance: (2, 2), its diagonal (2,), or one number.

    The same seed gives the same points; numpy's global generator is left alone. Raises InputError for other shapes.
    """
    mean = np.asarray(mean, dtype=np.float64).reshape(-1)
    if mean.shape != (2,):
        raise InputError(f"mean has {counted(mean.size, 'number')}; it is a point of the plane, of 2")
    cov = np.asarray(cov, dtype=np.float64)
    if cov.ndim == 0:
        cov = cov * np.eye(2)
    elif cov.shape == (2,):
        cov = np.diag(cov)
    if cov.shape != (2, 2):
        raise InputError(f"cov has shape {cov.shape}; it is a number, (2,) or (2, 2)")
    # A matrix that is not symmetric counts as its symmetric part.
    return np.random.default_rng(random_seed).multivariate_normal(mean, (cov + cov.T) / 2, size=N)
