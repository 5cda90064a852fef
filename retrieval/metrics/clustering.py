"""How clusters of embeddings agree with their labels."""

import numpy as np
import torch

from core.errors import InputError
from retrieval.query_gallery import Column

MOST_FOR_KMEANS = 20000  # items beyond which k-means goes by small batches


def cluster_agreement(embeddings: np.ndarray | torch.Tensor, labels: Column, seed: int = 0) -> dict[str, float]:
    """How k-means clusters of unit vectors, as many as labels, agree with the labels: {name: float}.

    nmi, ami, homogeneity, completeness, v_measure as scikit-learn defines them; k-means++ once from `seed`, by small
    batches beyond 20,000 items. embeddings (N, D), labels (N,). Raises InputError where scikit-learn is missing.
    """
    try:
        from sklearn import cluster, metrics
    except ImportError:
        raise InputError("clustering figures need scikit-learn: pip install scikit-learn") from None
    # On unit vectors squared Euclidean distances, which k-means goes by, are cosines.
    rows = torch.nn.functional.normalize(torch.as_tensor(embeddings).float(), dim=1).cpu().numpy()
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    method = cluster.KMeans if len(rows) <= MOST_FOR_KMEANS else cluster.MiniBatchKMeans
    clusters = method(int(codes.max()) + 1, n_init=1, random_state=seed).fit_predict(rows)
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(codes, clusters)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(codes, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(codes, clusters)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v_measure": float(v_measure),
    }
