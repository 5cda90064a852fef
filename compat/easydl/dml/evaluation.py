"""EasyDL's evaluation functions under their names, so that scripts written for it run; matrices N x N, for small N."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compat.easydl._errors import check_columns
from compat.easydl.clustering.functions import agglomerative_clustering_pairwise_cosine_distance_with_threshold
from compat.easydl.clustering.metrics import calculate_clustering_metrics_all_in_one
from compat.easydl.common_infer import infer_x_dataset_with_simple_stacking
from compat.easydl.common_trainer import model_file_default_name_given_epoch
from compat.easydl.data import GenericXYLambdaAutoLabelEncoderDataset
from compat.easydl.dml.pytorch_models import DMLModelManager
from core.console import log
from core.errors import InputError
from core.files import replacing
from core.text import counted
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults
from retrieval.scores import Scores

REPORT = "deep_metric_learning_image_evaluator_on_each_epoch.csv"


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
    The others are those of `calculate_precision_recall_auc_for_pairwise_score_matrix`. Without any true pair pr_auc is
    0 (EasyDL: 0.5), with a single row both are 0 (EasyDL: top1_accuracy 1). Raises InputError for shapes that differ
    and NaN.
    """
    figures = calculate_precision_recall_auc_for_pairwise_score_matrix(y_true_matrix, y_score_matrix)
    truth, scores = _checked(y_true_matrix, y_score_matrix)
    return {**figures, "top1_accuracy": _top1_accuracy(truth, scores)}


def calculate_precision_recall_auc_for_pairwise_score_matrix(
    y_true_matrix: np.ndarray | torch.Tensor, y_score_matrix: np.ndarray | torch.Tensor
) -> dict[str, float | np.ndarray]:
    """{"pr_auc", "precision_list", "recall_list", "threshold_list"} of scores (N, N), large is close.

    pr_auc: area under the precision-recall curve over the pairs above the diagonal, by trapezoids over every threshold.
    Raises InputError for shapes that differ and NaN.
    """
    truth, scores = _checked(y_true_matrix, y_score_matrix)
    is_above_diagonal = torch.ones(truth.shape, dtype=torch.bool).triu(1)
    pair_truth = truth[is_above_diagonal] == 1
    precision, recall, thresholds = _curve(pair_truth, scores[is_above_diagonal])
    area = 0.0
    if pair_truth.any():
        # The curve runs from recall 1 down to 0, so its steps are negative.
        area = float((np.diff(recall) * (precision[1:] + precision[:-1]) / -2).sum())
    return {"precision_list": precision, "recall_list": recall, "pr_auc": area, "threshold_list": thresholds}


def evaluate_embedding_top1_accuracy_ignore_self(embeddings_dataframe: Any) -> dict[str, Any]:
    """Figures of a data frame with columns `embedding` and `label`, by Euclidean distance.

    {"avg_top1_accuracy": share of rows whose nearest other row has their label; "accuracy_upper_bound": share of rows
    whose label has another row; "result_dataframe": the frame with top1_label, top1_distance, top1_index (of the
    nearest other row; of equal ones any, and never itself) and same_group_count}. Raises InputError without a column,
    and for fewer than two rows.
    """
    check_columns(embeddings_dataframe, "embedding", "label")
    if len(embeddings_dataframe) < 2:
        raise InputError(f"a data frame of {counted(len(embeddings_dataframe), 'row')} has no nearest other row")
    frame = embeddings_dataframe.copy()
    embeddings = np.array(frame["embedding"].tolist(), dtype=np.float64)
    results = RetrievalResults.from_embeddings(embeddings, k=1, distance="squared_euclidean")
    nearest = results.padded_ids[:, 0].numpy()
    labels = frame["label"].to_numpy()
    frame["top1_label"] = labels[nearest]
    frame["top1_distance"] = results.padded_distances[:, 0].double().sqrt().numpy()
    frame["top1_index"] = nearest
    frame["same_group_count"] = frame["label"].map(frame["label"].value_counts())
    return {
        "avg_top1_accuracy": float(np.mean(labels[nearest] == labels)),
        "accuracy_upper_bound": float(np.mean(frame["same_group_count"] > 1)),
        "result_dataframe": frame,
    }


def evaluate_major_cluster_precision_recall(embeddings_dataframe: Any) -> dict[str, Any]:
    """Of a data frame with columns `cluster_id` and `label`: how well the largest cluster stands for its most frequent
    label: precision, recall, tp, fp, fn, major_cluster_id, major_cluster_label. Raises InputError without rows."""
    check_columns(embeddings_dataframe, "cluster_id", "label")
    clusters, labels = embeddings_dataframe["cluster_id"], embeddings_dataframe["label"]
    cluster = clusters.value_counts().idxmax()
    label = labels[clusters == cluster].value_counts().idxmax()
    is_in, is_of_label = clusters == cluster, labels == label
    tp = int((is_in & is_of_label).sum())
    fp = int((is_in & ~is_of_label).sum())
    fn = int((~is_in & is_of_label).sum())
    return {
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "major_cluster_id": cluster,
        "major_cluster_label": label,
    }


class StandardEmbeddingEvaluationV1:
    """Top-1 accuracy and PR-AUC of a model, or of embeddings, on a data set whose labels are known."""

    def __init__(
        self,
        test_dataset: GenericXYLambdaAutoLabelEncoderDataset,
        save_pairwise_score_matrix_in_metric_dict: bool = False,
    ) -> None:
        self.test_dataset = test_dataset
        self.pairwise_similarity_ground_truth_matrix = create_pairwise_similarity_ground_truth_matrix(
            test_dataset.get_y_list_with_encoded_labels()
        )
        self.save_pairwise_score_matrix_in_metric_dict = save_pairwise_score_matrix_in_metric_dict

    @staticmethod
    def evaluate_given_dataset(dataset: GenericXYLambdaAutoLabelEncoderDataset, model: nn.Module) -> dict[str, Any]:
        """The figures of a model on a data set."""
        return StandardEmbeddingEvaluationV1(dataset).evaluate(model)

    def evaluate_given_embeddings(self, embeddings: np.ndarray) -> dict[str, Any]:
        """The figures of embeddings (N, D) of the data set's items."""
        scores = calculate_cosine_similarity_matrix(embeddings)
        figures = evaluate_pairwise_score_matrix_with_true_label(self.pairwise_similarity_ground_truth_matrix, scores)
        if self.save_pairwise_score_matrix_in_metric_dict:
            figures["pairwise_similarity_score_matrix"] = scores
        return figures

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """The figures of a model that takes the data set's `x`."""
        return self.evaluate_given_embeddings(infer_x_dataset_with_simple_stacking(self.test_dataset, model))


class StandardEmbeddingEvaluationReportV2:
    """Figures, and the two matrices that they are of."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.ground_truth_matrix: np.ndarray | None = None
        self.pairwise_similarity_score_matrix: np.ndarray | None = None


def standard_embedding_evaluation_v2(
    embeddings: np.ndarray, labels: Sequence | np.ndarray
) -> StandardEmbeddingEvaluationReportV2:
    """Top-1 accuracy and PR-AUC of embeddings (N, D) with labels (N,)."""
    report = StandardEmbeddingEvaluationReportV2()
    report.ground_truth_matrix = create_pairwise_similarity_ground_truth_matrix(labels)
    report.pairwise_similarity_score_matrix = calculate_cosine_similarity_matrix(embeddings)
    report.metrics = evaluate_pairwise_score_matrix_with_true_label(
        report.ground_truth_matrix, report.pairwise_similarity_score_matrix
    )
    return report


class DeepMetricLearningImageEvaluatorOnEachEpoch:
    """Top-1 accuracy and PR-AUC of every epoch's file of weights, as a csv at `report_csv_path`.

    model_epoch_params_dir: the folder with model_epoch_001.pth and so on; epochs without a file are left out, and
    without any file nothing is written and `report_csv_path` is None.
    """

    def __init__(
        self,
        test_dataset: GenericXYLambdaAutoLabelEncoderDataset,
        model_name: str,
        embedding_dim: int,
        model_epoch_params_dir: str | Path,
        num_epochs: int,
        evaluation_report_dir: str | Path | None = None,
    ) -> None:
        evaluation = StandardEmbeddingEvaluationV1(test_dataset)
        model = DMLModelManager.get_model(model_name, embedding_dim, weights=None)
        self.report_csv_path: Path | None = None
        rows = []
        for epoch in range(1, num_epochs + 1):
            file = Path(model_epoch_params_dir, model_file_default_name_given_epoch(epoch))
            if not file.is_file():
                log(f"note: there is no {file}, so epoch {epoch} is left out")
                continue
            model.load_weights(file)
            figures = evaluation.evaluate(model)
            rows.append((epoch, figures["top1_accuracy"], figures["pr_auc"]))
        if not rows:
            return
        self.report_csv_path = Path(evaluation_report_dir or "", REPORT)
        self.report_csv_path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(("epoch", "top1_accuracy", "pr_auc"))
        table.writerows(rows)
        with replacing(self.report_csv_path) as file:
            file.write(text.getvalue().encode())


class EmbeddingEvaluationAgglomerativeClustering:
    """Figures of clusters that are made of embeddings."""

    @staticmethod
    def evaluate_given_threshold(embeddings_dataframe: Any, threshold: float = 0.5) -> dict[str, Any]:
        """Those of a data frame with columns `embedding` and `label`; threshold: a cosine distance, 0 to 2."""
        clustered = agglomerative_clustering_pairwise_cosine_distance_with_threshold(embeddings_dataframe, threshold)
        return calculate_clustering_metrics_all_in_one(clustered)


def _checked(
    y_true_matrix: np.ndarray | torch.Tensor, y_score_matrix: np.ndarray | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.as_tensor(y_true_matrix)
    scores = torch.as_tensor(y_score_matrix)
    if truth.shape != scores.shape or truth.ndim != 2 or truth.shape[0] != truth.shape[1]:
        raise InputError(f"truth has shape {tuple(truth.shape)}, scores {tuple(scores.shape)}; both have to be (N, N)")
    if scores.isnan().any():
        raise InputError(f"{counted(int(scores.isnan().sum()), 'score')} of NaN")
    return truth, scores


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
