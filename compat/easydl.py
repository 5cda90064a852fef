"""EasyDL's evaluation functions under their names, so that scripts written for it run; matrices N x N, for small N."""

import numpy as np
import torch

from core.errors import InputError
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores


def calculate_cosine_similarity_matrix(embedding_matrix):
    """Cosines (N, N) float32 of all rows of embedding_matrix (N, D); a zero row has 0 with everything."""
    space, everyone = Scores(QueryGallery.of(embedding_matrix)), slice(None)
    factors = (space.operand(side, everyone, torch.float64) for side in ("query", "gallery"))
    left, right = factors
    return space.score(left @ right.T).clamp_(-1, 1).cpu().numpy()


def create_pairwise_similarity_ground_truth_matrix(labels):
    """(N, N) int64: 1 where two of labels (N,) are the same, the diagonal too, else 0."""
    labels = np.asarray(labels)
    return (labels[:, None] == labels).astype(np.int64)


def evaluate_pairwise_score_matrix_with_true_label(y_true_matrix, y_score_matrix):
    """{"top1_accuracy", "pr_auc", "precision_list", "recall_list", "threshold_list"} of scores (N, N), large is close.

    top1_accuracy: share of rows whose greatest score off the diagonal (the first of equal ones) is one of truth 1.
    pr_auc: area under the precision-recall curve over the pairs above the diagonal, by trapezoids over every threshold.
    Without any true pair it is 0 (EasyDL: 0.5), with a single row both are 0 (EasyDL: top1_accuracy 1).
    Raises InputError for shapes that differ and NaN.
    """
    truth, scores = torch.as_tensor(y_true_matrix), torch.as_tensor(y_score_matrix)
    if truth.shape != scores.shape or truth.ndim != 2 or truth.shape[0] != truth.shape[1]:
        raise InputError(f"truth has shape {tuple(truth.shape)}, scores {tuple(scores.shape)}; both have to be (N, N)")
    if scores.isnan().any():
        raise InputError(f"{int(scores.isnan().sum())} scores are NaN")
    count = len(truth)
    above = torch.ones(count, count, dtype=torch.bool).triu(1)
    precision, recall, thresholds = _curve(truth[above] == 1, scores[above])
    best = scores.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf).argmax(1) if count > 1 else None
    top1 = (truth.gather(1, best[:, None]) == 1).double().mean().item() if count > 1 else 0.0
    area = float((np.diff(recall) * (precision[1:] + precision[:-1]) / -2).sum()) if (truth[above] == 1).any() else 0.0
    return {
        "precision_list": precision,
        "recall_list": recall,
        "pr_auc": area,
        "threshold_list": thresholds,
        "top1_accuracy": top1,
    }


def _curve(truth, scores):
    """Precision and recall at every distinct score, from the lowest up, then 1 and 0, as scikit-learn has it."""
    order = scores.argsort(descending=True, stable=True)
    truth, scores = truth[order].double(), scores[order]
    last = torch.ones(len(scores), dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    right = truth.cumsum(0)[last]
    called = torch.arange(1, len(scores) + 1, dtype=torch.float64)[last]
    precision, recall = right / called, right / truth.sum().clamp_min(1)
    ends = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    precision, recall = (torch.cat([curve.flip(0), end]).numpy() for curve, end in zip((precision, recall), ends))
    return precision, recall, scores[last].flip(0).numpy()
