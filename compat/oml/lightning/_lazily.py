"""What is in compat/lightning.py, where OML has it: a file that imports this `__getattr__` has all of it."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # Lightning is an extra package, which only who asks for one of these needs.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "logging":
        return importlib.import_module("compat.oml.lightning.pipelines.logging")
    return getattr(importlib.import_module("compat.lightning"), name)
