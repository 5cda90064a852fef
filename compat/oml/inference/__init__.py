"""Embeddings of datasets and distances of pairs."""

from compat.oml.inference.abstract import inference, inference_cached, pairwise_inference

__all__ = ["inference", "inference_cached", "pairwise_inference"]
