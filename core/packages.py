"""Extra packages: imported where they are asked for, missing in one sentence."""

import importlib
from types import ModuleType

from core.errors import InputError


def needed(module: str, who: str, requirements: str) -> ModuleType:
    """A module of an extra package. Raises InputError, which says what to install, where it is missing.

    who: what needs it, as a flag or a model's name; requirements: the file in requirements/ that lists it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise InputError(f"{who} needs the package {package}: pip install -r requirements/{requirements}.txt") from None
