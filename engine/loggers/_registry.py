"""The table of loggers.

A logger is a file in this folder: a class with the decorator `@LOGGERS.register("name")`, and with remote=True where a
server may keep it waiting.
"""

from collections.abc import Callable

from core.errors import InputError
from core.registry import Registry
from core.text import class_name
from engine.loggers._protocol import Logger


class Loggers(Registry):
    """A Registry of what a run can open and tell."""

    def register(self, *names: str, **facts: object) -> Callable:
        """As Registry.register. Raises InputError for what is no Logger, or has no `open`."""
        enter = super().register(*names, **facts)

        def check(registered):
            place = f"the logger {', '.join(names)}, {class_name(registered)},"
            if not (isinstance(registered, type) and issubclass(registered, Logger)):
                raise InputError(f"{place} is no class of engine.loggers.Logger, whose methods a run calls")
            if not callable(getattr(registered, "open", None)):
                raise InputError(f"{place} has no class method open(facts), which makes it of a run's RunFacts")
            return enter(registered)

        return check


LOGGERS = Loggers("logger")
