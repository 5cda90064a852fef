"""From the embeddings of an old model to those of a new one: maps that are fitted on items which both have embedded.

With such a map the items of a collection can be found by queries of the new model before they are embedded anew, as in
compatible and forward-compatible training (Shen et al., CVPR 2020, arXiv 2003.11942; Ramanujan et al., CVPR 2022, arXiv
2112.02805), where a map of the old embeddings stands in for a backfill. Here nothing is trained beside the map, which
is a closed form: orthogonal (Schönemann, Psychometrika 31, 1966), which keeps cosines, or ridge regression (Hoerl and
Kennard, Technometrics 12, 1970). Where the new model goes on from the old one, as a second stage does, the numbers of
both mean the same, and ridge regression is drawn to the map that leaves them as they are: then a few hundred items are
enough for more than a thousand dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGES = (0.1, 1.0, 10.0)  # of the mean variance of the old embeddings
KEPT = (1.0, 0.4)  # share of the directions that an orthogonal map takes over, those that agree best
LEAST = 1e-9  # of the greatest singular value, below which a direction says nothing


@dataclass(frozen=True)
class Bridge:
    """x to (x / |x| - mean) W + offset. name: how it was fitted. mean (D,), weight (D, E), offset (E,) float64."""

    name: str
    mean: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def __call__(self, old: np.ndarray) -> np.ndarray:
        """Embeddings (N, D) of the old model as the new one would give them, about, (N, E) float32 of length one."""
        mapped = (_unit(old) - self.mean) @ self.weight + self.offset
        return _unit(mapped).astype(np.float32)


def fit_bridges(old: np.ndarray, new: np.ndarray) -> list[Bridge]:
    """All Bridges that may be chosen from, fitted on N items: their old embeddings (N, D), their new ones (N, E)."""
    old, new = _unit(old), _unit(new)
    mean, offset = old.mean(0), new.mean(0)
    old, new = old - mean, new - offset
    maps = {}
    for kept in KEPT:
        maps[f"procrustes, {kept:.0%} of directions"] = _orthogonal(old, new, kept)
    variance = (old**2).sum() / old.shape[1]
    zeros = np.zeros((old.shape[1], new.shape[1]))
    for ridge in RIDGES:
        maps[f"ridge {ridge:g}"] = _ridge(old, new, ridge * variance, zeros)
    if old.shape[1] == new.shape[1]:
        scale = np.linalg.norm(new) / max(np.linalg.norm(old), np.finfo(float).tiny)
        identity = scale * np.eye(old.shape[1])
        maps["as they are"] = identity
        for ridge in RIDGES:
            maps[f"ridge {ridge:g} from as they are"] = _ridge(old, new, ridge * variance, identity)
    return [Bridge(name, mean, weight, offset) for name, weight in maps.items()]


def _orthogonal(old: np.ndarray, new: np.ndarray, kept: float) -> np.ndarray:
    """The W (D, E) that takes `old` W nearest to `new` among those that turn `kept` of the directions that the items
    have evidence of, and drop all others."""
    # In a basis of what the items span, which may be far fewer directions than there are numbers.
    old_basis, old_triangle = np.linalg.qr(old.T)
    new_basis, new_triangle = np.linalg.qr(new.T)
    left, strengths, right = np.linalg.svd(old_triangle @ new_triangle.T, full_matrices=False)
    known = int((strengths > LEAST * strengths[0]).sum())
    taken = max(1, round(kept * known))
    return (old_basis @ left[:, :taken]) @ (right[:taken] @ new_basis.T)


def _ridge(old: np.ndarray, new: np.ndarray, penalty: float, towards: np.ndarray) -> np.ndarray:
    """argmin |old W - new|^2 + penalty |W - towards|^2."""
    left_over = new - old @ towards
    count, width = old.shape
    if count < width:
        return towards + old.T @ np.linalg.solve(old @ old.T + penalty * np.eye(count), left_over)
    return towards + np.linalg.solve(old.T @ old + penalty * np.eye(width), old.T @ left_over)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)
