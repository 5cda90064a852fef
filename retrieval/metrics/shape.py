"""How embeddings fill their space: principal components, and clusters beside labels."""

import numpy as np
import torch

from core.errors import InputError
from retrieval.rows import pieces

MOST_FOR_KMEANS = 20000  # items beyond which k-means goes by small batches


@torch.no_grad()
def component_fractions(embeddings, variances=(0.5, 0.9), definition="standard"):
    """Share of all dimensions that hold so much of the variance (pcf), {variance: float in 0 to 1}.

    The least number of principal components whose variances make up the share asked for, over D. oml: one more, counted
    from where that share is passed, which can be more than 1; never NaN here. One row, or equal rows, have no variance
    and need none: 0. embeddings (N, D). Raises InputError for a share outside 0 to 1.
    """
    if not all(0 <= variance <= 1 for variance in variances):
        raise InputError(f"pcf of {tuple(variances)}: a share of the variance lies between 0 and 1")
    table = torch.as_tensor(embeddings)
    count, width = table.shape
    mean = table.double().mean(0) if count < 2 else sum(table[p].double().sum(0) for p in pieces(count, width)) / count
    scatter = torch.zeros(width, width, dtype=torch.float64, device=table.device)
    for part in pieces(count, width):
        centred = table[part].double() - mean
        scatter += centred.T @ centred
    shares = torch.linalg.eigvalsh(scatter).flip(0).clamp_min(0)
    if shares[0] <= 1e-24 * max(1.0, mean.square().sum().item()):
        return {variance: 0.0 for variance in variances}
    if definition == "oml":
        shares = shares[: min(count, width)]
    reached = (shares / shares.sum()).cumsum(0)
    asked = torch.tensor(variances, dtype=torch.float64, device=table.device)
    if definition == "oml":
        numbers = torch.searchsorted(reached, asked, right=True) + 1
    else:
        numbers = torch.where(asked > 0, torch.searchsorted(reached, asked - 1e-9) + 1, 0)
    return dict(zip(variances, (numbers / width).tolist()))


def clustering(embeddings, labels, seed=0):
    """How k-means clusters of unit vectors, as many as labels, agree with the labels: {name: float}.

    nmi, ami, homogeneity, completeness, v_measure as scikit-learn defines them; k-means++ once from `seed`, by small
    batches beyond 20,000 items. embeddings (N, D), labels (N,). Raises InputError where scikit-learn is missing.
    """
    try:
        from sklearn import cluster, metrics
    except ImportError:
        raise InputError("clustering figures need scikit-learn: pip install scikit-learn") from None
    rows = torch.nn.functional.normalize(torch.as_tensor(embeddings).float(), dim=1).cpu().numpy()
    labels = np.unique(np.asarray(labels), return_inverse=True)[1]
    method = cluster.KMeans if len(rows) <= MOST_FOR_KMEANS else cluster.MiniBatchKMeans
    found = method(int(labels.max()) + 1, n_init=1, random_state=seed).fit_predict(rows)
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(labels, found)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(labels, found)),
        "ami": float(metrics.adjusted_mutual_info_score(labels, found)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v_measure": float(v_measure),
    }
