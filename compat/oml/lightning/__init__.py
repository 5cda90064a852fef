"""OML's modules and callbacks for Lightning, which are in compat/lightning.py."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # Lightning is an extra package, which only who asks for one of these needs.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("compat.lightning"), name)
