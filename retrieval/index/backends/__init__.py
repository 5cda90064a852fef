"""Every backend of an index by name. A new one is a new file here with one `@BACKENDS.register(...)` line, no more."""

import importlib
import pkgutil

from core.errors import InputError, near_match
from core.registry import Registry

BACKENDS = Registry("backend")

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")


def make_backend(name: str, options: dict) -> tuple:
    """(a backend, its options by name as a card keeps them).

    Raises InputError for an unknown name or option, and for a value of no use.
    """
    defaults = {option.name: option.default for option in BACKENDS.options(name)}
    # Options come from an index's card, too, in which anything may stand.
    for option, value in options.items():
        if option not in defaults:
            raise InputError(f"the backend {name} has no option {option!r}.{near_match(option, defaults)}")
        if type(value) is not type(defaults[option]):
            raise InputError(f"{option} is {value!r}; the backend {name} takes {type(defaults[option]).__name__}")
    backend = BACKENDS[name](**options)
    return backend, backend.kept_options({**defaults, **options})
