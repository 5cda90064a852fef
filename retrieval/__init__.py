"""Judging and searching embeddings: arrays in, figures out; nothing here knows of models or flags."""

from retrieval.measure import recall_at_k
from retrieval.results import RetrievalResults
from retrieval.task import Task

__all__ = ["RetrievalResults", "Task", "recall_at_k"]
