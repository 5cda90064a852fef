"""How something is made by its name in a table, or by a section {"name": ..., "args": {...}} of a configuration.

Tables are plain dicts: `LOSSES_REGISTRY["mine"] = MyLoss` enters a class of the user.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from compat.oml._errors import unknown_name


def entry(kind: str, name: str, table: Mapping[str, Callable]) -> Callable:
    """What the table has under a name. Raises UnknownName."""
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def options_of(cfg: Mapping[str, Any], further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of a section, with further ones that win."""
    return {**(cfg.get("args") or {}), **(further or {})}


def known_options(made: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a class or function takes."""
    known = inspect.signature(made).parameters
    return {name: value for name, value in options.items() if name in known}
