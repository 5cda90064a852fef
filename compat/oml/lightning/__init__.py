"""OML's modules and callbacks for Lightning, which are in compat/lightning.py."""

from compat.oml.lightning._lazily import __getattr__

__all__ = ["__getattr__"]
