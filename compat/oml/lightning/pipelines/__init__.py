"""Loggers of OML's pipelines; the pipelines themselves are the scripts of this repository (docs/oml.md)."""
