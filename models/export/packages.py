"""Packages that only exports need: looked for when they are asked for."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import ModuleType

from core.errors import InputError


def needed(module: str, flag: str, requirements: str = "export") -> ModuleType:
    """A module of an extra package. Raises InputError, which says what to install, where it is missing.

    flag: what of the command line needs it; requirements: the file in requirements/ that lists it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise InputError(
            f"{flag} needs the package {package}: pip install -r requirements/{requirements}.txt"
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of exporters, which are about ways that we chose knowing them; errors are raised."""
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        yield
