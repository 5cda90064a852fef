"""The report of an evaluation: one HTML file with figures, queries, scores, a map and look-alikes."""

from retrieval.report.album import Images
from retrieval.report.report import Report, worst_queries, write_report

__all__ = ["Images", "Report", "worst_queries", "write_report"]
