"""Judging and searching embeddings: arrays in, figures out; nothing here knows of models or flags."""

import importlib
from typing import Any

__all__ = ["QueryGallery", "RetrievalResults", "recall_at_k"]

HOMES = {
    "QueryGallery": "retrieval.query_gallery",
    "RetrievalResults": "retrieval.results",
    "recall_at_k": "retrieval.metrics.per_query",
}


def __getattr__(name: str) -> Any:
    # Imported once they are asked for: they import torch, and retrieval/index/ searches without it.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
