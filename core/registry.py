"""Names to classes: one decorator registers, a mistyped name meets its near match, options come from signatures."""

import inspect
import re
from dataclasses import dataclass

from core.errors import InputError, near_match


@dataclass(frozen=True)
class Option:
    """One user-settable argument of a registered class: a keyword of its signature that has a default."""

    name: str
    default: object
    help: str


class Registry:
    """A table of classes by name. `kind` is the word that messages use, such as "loss"."""

    def __init__(self, kind):
        self.kind = kind
        self._classes = {}
        self._facts = {}

    def register(self, name, **facts):
        """Decorate a class to enter it under `name`; `facts` (such as stage="pair") can be asked for later."""

        def enter(cls):
            if name in self._classes:
                raise RuntimeError(f"{self.kind} {name!r} is registered twice: {self._classes[name]} and {cls}")
            self._classes[name], self._facts[name] = cls, facts
            return cls

        return enter

    def __getitem__(self, name):
        if name not in self._classes:
            allowed = self.names()
            raise InputError(
                f"unknown {self.kind} {name!r}; there are: {', '.join(allowed)}.{near_match(name, allowed)}"
            )
        return self._classes[name]

    def names(self, **facts):
        """Names, in order of registration, of the classes whose facts include all of `facts`."""
        return [name for name, own in self._facts.items() if facts.items() <= own.items()]

    def fact(self, name, key):
        """The fact `key` given when `name` was registered. Raises InputError for an unknown name."""
        self[name]
        return self._facts[name][key]

    def requirements(self, name):
        """Names of the arguments without default: facts such as num_classes that the caller hands over."""
        parameters = inspect.signature(self[name]).parameters.values()
        return [parameter.name for parameter in parameters if parameter.default is parameter.empty]

    def options(self, name):
        """The user's options of `name`: keywords with a default; help is the `keyword: text` line of the docstring."""
        texts = dict(re.findall(r"^\s+(\w+): (.+)$", inspect.getdoc(self[name]) or "", flags=re.MULTILINE))
        parameters = inspect.signature(self[name]).parameters.values()
        return [
            Option(parameter.name, parameter.default, texts.get(parameter.name, ""))
            for parameter in parameters
            if parameter.default is not parameter.empty
        ]
