"""Judging and searching embeddings: arrays in, figures out; nothing here knows of models or flags."""

from retrieval.metrics.measure import recall_at_k
from retrieval.results import RetrievalResults
from retrieval.query_gallery import QueryGallery

__all__ = ["RetrievalResults", "QueryGallery", "recall_at_k"]
