"""Judging and searching embeddings: arrays in, figures out; nothing here knows of models or flags."""

from retrieval.metrics.per_query import recall_at_k
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

__all__ = ["QueryGallery", "RetrievalResults", "recall_at_k"]
