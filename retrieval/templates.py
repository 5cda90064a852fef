"""Several embeddings as one: the mean of what has length one, which is of length one again."""

import numpy as np


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows (N, D) of length one, float64; one of zeros stays."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)


def mean_embeddings(embeddings: np.ndarray, numbers: np.ndarray, media: np.ndarray | None = None) -> np.ndarray:
    """Templates (T, D) float32 of length one: the mean of unit rows (N, D) of each number 0 to T - 1 in numbers (N,).

    media: (N,) numbers of groups within a template, such as the frames of one video, that count as one of their mean.
    """
    rows = unit_rows(embeddings)
    if media is not None:
        means = _sums(rows, media)
        counts = np.bincount(media)
        # The template of a group is that of any of its rows.
        of_group = np.zeros(len(means), dtype=np.int64)
        of_group[media] = numbers
        rows, numbers = means / counts[:, None], of_group
    return unit_rows(_sums(rows, numbers)).astype(np.float32)


def _sums(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    sums = np.zeros((int(numbers.max(initial=-1)) + 1, rows.shape[1]))
    np.add.at(sums, numbers, rows)
    return sums
