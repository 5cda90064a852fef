"""Exact search for chosen queries."""

import torch
import torch.nn.functional as F


def nearest(embeddings, queries, k, is_gallery=None):
    """The k nearest gallery rows of some rows, by cosine, a row never finding itself.

    embeddings (N, D); queries (Q,) indices into it; is_gallery (N,) bool or None for all. k is clipped to the gallery.
    Returns (indices (Q, k) int64, scores (Q, k) float32), best first.
    """
    embeddings = F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
    queries = torch.as_tensor(queries)
    scores = embeddings[queries] @ embeddings.T
    scores[torch.arange(len(queries)), queries] = -torch.inf
    gallery = len(embeddings) - 1
    if is_gallery is not None:
        is_gallery = torch.as_tensor(is_gallery)
        scores[:, ~is_gallery] = -torch.inf
        gallery = int((is_gallery.sum() - is_gallery[queries].long()).min())
    scores, indices = scores.topk(min(k, gallery), dim=1)
    return indices, scores
