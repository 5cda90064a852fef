"""EasyDL's names on this code: scripts written for it run with `compat.easydl` in place of `easydl`.

from compat.easydl.dml.pytorch_models import Resnet18MetricModel
from compat.easydl.dml.evaluation import calculate_cosine_similarity_matrix

docs/easydl.md says what is there and what differs on purpose.
"""

from compat.easydl.dml.evaluation import (
    calculate_cosine_similarity_matrix,
    create_pairwise_similarity_ground_truth_matrix,
    evaluate_pairwise_score_matrix_with_true_label,
)

__all__ = [
    "calculate_cosine_similarity_matrix",
    "create_pairwise_similarity_ground_truth_matrix",
    "evaluate_pairwise_score_matrix_with_true_label",
]
