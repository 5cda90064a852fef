"""Names to classes: one decorator registers, a mistyped name meets its near match; signatures are options."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from core import sources
from core.errors import InputError, unknown
from core.sources import option_texts


@dataclass(frozen=True)
class Option:
    """One user-settable argument of a registered class: a keyword of its signature that has a default."""

    name: str
    default: object
    help: str


class Entry(NamedTuple):
    """What is registered under a name, and the facts that were given with it."""

    registered: Callable
    facts: dict[str, object]


class Registry:
    """A table of classes or functions by name. `kind` is the word that messages use, such as "loss"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, *names: str, **facts: object) -> Callable:
        """Decorate a class or function to enter it under each of `names`; `facts` (such as stage="pair") are kept.

        Raises RuntimeError for a name that is taken.
        """

        def enter(registered):
            for name in names:
                if name in self._entries:
                    first = self._entries[name].registered
                    raise RuntimeError(f"{self.kind} {name!r} is registered twice: {first} and {registered}")
                self._entries[name] = Entry(registered, facts)
            return registered

        return enter

    def register_table(self, rows: dict[str, dict[str, object]], **facts: object) -> Callable:
        """Decorate a function to enter it under each key of `rows`, whose values are facts beside those of all."""

        def enter(registered):
            for name, own in rows.items():
                self.register(name, **{**facts, **own})(registered)
            return registered

        return enter

    def __getitem__(self, name: str) -> Any:
        return self._entry(name).registered

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def names(self, **facts: object) -> list[str]:
        """Names, in order of registration, of the entries whose facts include all of `facts`."""
        return [name for name, entry in self._entries.items() if facts.items() <= entry.facts.items()]

    def fact(self, name: str, key: str, default: Any = None) -> Any:
        """The fact `key` given when `name` was registered, else `default`. Raises InputError for an unknown name."""
        return self._entry(name).facts.get(key, default)

    def requirements(self, name: str) -> list[str]:
        """Names of the arguments without default: facts such as num_classes that the caller hands over."""
        parameters = inspect.signature(self[name]).parameters.values()
        return [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]

    def options(self, name: str) -> list[Option]:
        """The user's options: keywords with a default; help is their text under `Options:` of the docstring."""
        texts = option_texts(inspect.getdoc(self[name]) or "")
        parameters = inspect.signature(self[name]).parameters.values()
        return [
            Option(parameter.name, parameter.default, texts.get(parameter.name, ""))
            for parameter in parameters
            if parameter.default is not parameter.empty
        ]

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            forgotten = self._never_imported(name)
            if forgotten is not None:
                raise InputError(f"the {self.kind} {name!r} of {forgotten}.py: nothing imports that file")
            raise unknown(self.kind, name, self.names())
        return self._entries[name]

    def _never_imported(self, name: str) -> str | None:
        """The module beside those of the entries whose source registers `name`, though it has not been run; or None."""
        folders = {entry.registered.__module__.rpartition(".")[0] for entry in self._entries.values()}
        for folder in filter(None, folders):
            if name in (found := sources.registered(folder.replace(".", "/"))):
                return found[name].home.partition(":")[0].replace(".", "/")
        return None
