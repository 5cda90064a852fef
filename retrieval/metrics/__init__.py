"""Figures of a retrieval: of rankings (a file a family of metrics), of pairs, of the shape of the embeddings.

Imported here, the families are in the table METRICS; messages name them in this order.
"""

# isort: off
from retrieval.metrics import recall  # noqa: F401
from retrieval.metrics import precision  # noqa: F401
from retrieval.metrics import average_precision  # noqa: F401
from retrieval.metrics import knn  # noqa: F401

# isort: on
from retrieval.metrics.ranking import DEFAULT, DEFINITIONS, METRICS, Ranked, describe, parse_metric, parse_metrics

__all__ = ["DEFAULT", "DEFINITIONS", "METRICS", "Ranked", "describe", "parse_metric", "parse_metrics"]
