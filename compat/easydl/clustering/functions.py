"""EasyDL's clusters of embeddings."""

from typing import Any

import numpy as np

from compat.easydl._errors import check_columns
from core.packages import needed


def agglomerative_clustering_pairwise_cosine_distance_with_threshold(df_embeddings: Any, threshold: float) -> Any:
    """A data frame with column `embedding` with one more, `cluster_label`.

    Clusters whose rows' mean cosine distance is below `threshold` are joined, the nearest first. (EasyDL takes the rows
    of the matrix of distances for embeddings, and joins by Ward's.) Raises InputError without the column.
    """
    check_columns(df_embeddings, "embedding")
    cluster = needed("sklearn.cluster", "clustering", "verification")
    clustering = cluster.AgglomerativeClustering(
        n_clusters=None, distance_threshold=threshold, metric="cosine", linkage="average"
    )
    clustered = df_embeddings.copy()
    clustered["cluster_label"] = clustering.fit_predict(np.array(df_embeddings["embedding"].tolist()))
    return clustered
