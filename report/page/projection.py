"""A map of embeddings: many numbers an item brought down to two, for looking at."""

import numpy as np

from core.errors import InputError

METHODS = ("pca", "umap")
TOGETHER = 8  # images of a label that a sample takes at a time, so that small labels are in it whole
UMAP_NEIGHBOURS = 15


def sample_rows(labels: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows of labels (N,), ascending: labels in random order, eight images of each at a time."""
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if len(codes) <= most:
        return np.arange(len(codes))

    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(codes))
    by_label = shuffled[codes[shuffled].argsort(kind="stable")]
    sizes = np.bincount(codes)
    position = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # 0, 1, 2 ... within each label
    turn = rng.permutation(len(sizes))[codes[by_label]]
    # First the first eight images of every label, label by label, then the next eight, and so on.
    order = np.lexsort((position, turn, position // TOGETHER))
    return np.sort(by_label[order][:most])


def project(embeddings: np.ndarray, method: str = "pca", distance: str = "cosine") -> tuple[np.ndarray, str]:
    """Two numbers an item: (points (N, 2) float64, how they were made, in a sentence).

    embeddings (N, D) floats; for cosine their lengths are left out. method: pca, or umap, which needs umap-learn and
    more than 15 items (with fewer it is PCA all the same). Raises InputError for another method or without umap-learn.
    """
    if method not in METHODS:
        raise InputError(f"unknown projection {method!r}; there are: {', '.join(METHODS)}")
    table = np.asarray(embeddings, dtype=np.float64)
    if distance == "cosine":
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        table = table / np.where(lengths > 0, lengths, 1)
    if method == "umap" and len(table) > UMAP_NEIGHBOURS:
        return _umap(table), "UMAP: items that are close stay close; distances between far groups mean little"
    return _pca(table)


def _pca(table: np.ndarray) -> tuple[np.ndarray, str]:
    centred = table - table.mean(0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    # An eigenvector's sign is left to chance; here its largest component is positive.
    largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
    axes = axes * np.where(largest < 0, -1, 1)

    points = np.zeros((len(table), 2))
    points[:, : axes.shape[1]] = centred @ axes  # a table of one column leaves the second coordinate 0
    share = variances[::-1][:2].sum() / max(variances.sum(), 1e-300)
    return points, f"PCA: the two directions in which the embeddings differ most, {share:.0%} of their variance"


def open_umap() -> type:
    """umap-learn's UMAP. Raises InputError without the package."""
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("a map by UMAP needs the package umap-learn: pip install umap-learn") from None
    return UMAP


def _umap(table: np.ndarray) -> np.ndarray:
    return open_umap()(n_neighbors=UMAP_NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(table).astype(np.float64)
