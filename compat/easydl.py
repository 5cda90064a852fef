"""EasyDL's evaluation functions under their names, so that scripts written for it run; matrices N x N, for small N."""

from collections.abc import Sequence

import numpy as np
import torch

from core.errors import InputError
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores


def calculate_cosine_similarity_matrix(embedding_matrix: np.ndarray | torch.Tensor) -> np.ndarray:
    """Cosines (N, N) float32 of all rows of embedding_matrix (N, D); a zero row has 0 with everything."""
    scores = Scores(QueryGallery.of(embedding_matrix))
    everyone = slice(None)
    left = scores.factor("query", everyone, torch.float64)
    right = scores.factor("gallery", everyone, torch.float64)
    return scores.from_grid(left @ right.T).clamp_(-1, 1).cpu().numpy()


def create_pairwise_similarity_ground_truth_matrix(labels: Sequence | np.ndarray) -> np.ndarray:
    """(N, N) int64: 1 where two of labels (N,) are the same, the diagonal too, else 0."""
    labels = np.asarray(labels)
    return (labels[:, None] == labels).astype(np.int64)


def evaluate_pairwise_score_matrix_with_true_label(
    y_true_matrix: np.ndarray | torch.Tensor, y_score_matrix: np.ndarray | torch.Tensor
) -> dict[str, float | np.ndarray]:
    """{"top1_accuracy", "pr_auc", "precision_list", "recall_list", "threshold_list"} of scores (N, N), large is close.

    top1_accuracy: share of rows whose greatest score off the diagonal (the first of equal ones) is one of truth 1.
    pr_auc: area under the precision-recall curve over the pairs above the diagonal, by trapezoids over every threshold.
    Without any true pair it is 0 (EasyDL: 0.5), with a single row both are 0 (EasyDL: top1_accuracy 1).
    Raises InputError for shapes that differ and NaN.
    """
    truth = torch.as_tensor(y_true_matrix)
    scores = torch.as_tensor(y_score_matrix)
    if truth.shape != scores.shape or truth.ndim != 2 or truth.shape[0] != truth.shape[1]:
        raise InputError(f"truth has shape {tuple(truth.shape)}, scores {tuple(scores.shape)}; both have to be (N, N)")
    if scores.isnan().any():
        raise InputError(f"{int(scores.isnan().sum())} scores are NaN")
    count = len(truth)
    is_above_diagonal = torch.ones(count, count, dtype=torch.bool).triu(1)
    pair_truth = truth[is_above_diagonal] == 1
    precision, recall, thresholds = _curve(pair_truth, scores[is_above_diagonal])
    area = 0.0
    if pair_truth.any():
        # The curve runs from recall 1 down to 0, so its steps are negative.
        area = float((np.diff(recall) * (precision[1:] + precision[:-1]) / -2).sum())
    return {
        "precision_list": precision,
        "recall_list": recall,
        "pr_auc": area,
        "threshold_list": thresholds,
        "top1_accuracy": _top1_accuracy(truth, scores),
    }


def _top1_accuracy(truth: torch.Tensor, scores: torch.Tensor) -> float:
    count = len(truth)
    if count < 2:
        return 0.0
    best = scores.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf).argmax(1)
    return (truth.gather(1, best[:, None]) == 1).double().mean().item()


def _curve(truth: torch.Tensor, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and score at every distinct score, from the lowest up, then 1 and 0, as scikit-learn has it."""
    order = scores.argsort(descending=True, stable=True)
    truth = truth[order].double()
    scores = scores[order]
    # A threshold calls all of its equals, so only the last of them counts.
    is_last = torch.ones(len(scores), dtype=torch.bool)
    is_last[:-1] = scores[1:] != scores[:-1]
    right = truth.cumsum(0)[is_last]
    called = torch.arange(1, len(scores) + 1, dtype=torch.float64)[is_last]
    precision = right / called
    recall = right / truth.sum().clamp_min(1)
    precision = torch.cat([precision.flip(0), torch.ones(1, dtype=torch.float64)])
    recall = torch.cat([recall.flip(0), torch.zeros(1, dtype=torch.float64)])
    return precision.numpy(), recall.numpy(), scores[is_last].flip(0).numpy()
