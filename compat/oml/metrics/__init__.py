"""OML's figures: of results, of embeddings, and gathered over the batches of a validation."""

from compat.oml.metrics.embeddings import EmbeddingMetrics
from compat.oml.metrics.functions import calc_fnmr_at_fmr_rr, calc_retrieval_metrics_rr, calc_topological_metrics

__all__ = ["EmbeddingMetrics", "calc_fnmr_at_fmr_rr", "calc_retrieval_metrics_rr", "calc_topological_metrics"]
