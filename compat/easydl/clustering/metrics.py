"""EasyDL's figures of clusters, as scikit-learn defines them."""

import math
from typing import Any

import numpy as np

from compat.easydl._errors import check_columns
from core.packages import needed

OF_LABELS = (
    "rand_score",
    "adjusted_mutual_info_score",
    "homogeneity_score",
    "completeness_score",
    "v_measure_score",
    "fowlkes_mallows_score",
)
OF_EMBEDDINGS = ("calinski_harabasz_score", "davies_bouldin_score")


def calculate_clustering_metrics_all_in_one(df_clustered: Any, save_input_df_clustered: bool = True) -> dict[str, Any]:
    """Figures of a data frame with columns `cluster_label`, `label` and `embedding`.

    number_of_labels, number_of_clusters, those of OF_LABELS, and those of OF_EMBEDDINGS, which are NaN where all rows
    are in one cluster or each in its own. `df_clustered`: the frame, or None. Raises InputError without a column.
    """
    check_columns(df_clustered, "cluster_label", "label", "embedding")
    metrics = needed("sklearn.metrics", "clustering", "verification")
    embeddings = np.array(df_clustered["embedding"].tolist())
    labels = df_clustered["label"].tolist()
    clusters = df_clustered["cluster_label"].tolist()
    figures = {
        "df_clustered": df_clustered if save_input_df_clustered else None,
        "number_of_labels": len(set(labels)),
        "number_of_clusters": len(set(clusters)),
    }
    for name in OF_LABELS:
        figures[name] = float(getattr(metrics, name)(labels, clusters))
    are_comparable = 1 < figures["number_of_clusters"] < len(clusters)
    for name in OF_EMBEDDINGS:
        figures[name] = float(getattr(metrics, name)(embeddings, clusters)) if are_comparable else math.nan
    return figures
