"""Every loss by name. A new loss is a new file in this folder with one `@LOSSES.register(...)` line, nothing else."""

import importlib
import pkgutil

from core.registry import Registry

LOSSES = Registry("loss")

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

globals().update({LOSSES[_name].__name__: LOSSES[_name] for _name in LOSSES.names()})
