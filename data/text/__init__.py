"""Texts of lists to the numbers of their tokens, and drawn for reports."""
