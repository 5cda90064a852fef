"""Judging and searching embeddings: arrays in, figures out; nothing here knows of models or flags."""

from retrieval.recall import recall_at_k

__all__ = ["recall_at_k"]
