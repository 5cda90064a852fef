"""As compat/oml/lightning."""

from compat.oml.lightning._lazily import __getattr__

__all__ = ["__getattr__"]
