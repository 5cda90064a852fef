"""The page of an evaluation: one HTML file with figures, queries, scores, a map and look-alikes."""

from report.page.page import write_page

__all__ = ["write_page"]
