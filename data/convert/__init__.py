"""Benchmarks, as their makers hand them out, to lists; a data set is a file in this folder with one
`@CONVERTERS.register(...)` line, and nothing else."""

import importlib
import pkgutil

from data.convert._registry import CONVERTERS, Archive, Counts, DataSet, Row

__all__ = ["CONVERTERS", "Archive", "Counts", "DataSet", "Row"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
