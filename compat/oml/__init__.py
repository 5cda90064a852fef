"""Open Metric Learning under its names: a script written for it runs with `from oml.` changed to `from compat.oml.`.

A folder here is a module there. Names, argument orders and exceptions are its, the work is done by this repository;
docs/oml.md says what is here and what differs on purpose.
"""

from compat.oml.metrics.functions import calc_fnmr_at_fmr_rr, calc_retrieval_metrics_rr, calc_topological_metrics

__all__ = ["calc_fnmr_at_fmr_rr", "calc_retrieval_metrics_rr", "calc_topological_metrics"]
