"""The report of an evaluation: one HTML file with figures, queries, scores, a map and look-alikes."""

from report.page.album import Images
from report.page.report import Report, worst_queries, write_report

__all__ = ["Images", "Report", "worst_queries", "write_report"]
