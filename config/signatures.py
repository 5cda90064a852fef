"""Flags out of signatures: a keyword's name, default, type and help are the flag's."""

import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import core.types
from core.sources import Keyword, keywords_of, registered

# What an annotation may be made of: the names of core/types.py, and Python's own.
NAMESPACE = {**vars(core.types), "Annotated": Annotated, "Literal": Literal}
PLAIN_TYPES: dict[type, Callable[[str], Any]] = {
    bool: core.types.boolean,
    int: core.types.integer,
    float: core.types.finite,
    str: str,
}


@dataclass(frozen=True)
class Flag:
    """One flag: `read` makes a value of its text; `words` says how many it takes; `home` is where its keyword stands.

    argument: the keyword as the function spells it, such as `continue_`.
    """

    name: str
    argument: str
    default: object
    read: Callable[[str], Any]
    help: str
    home: str
    words: str | None = None

    def with_default(self, default: object) -> "Flag":
        return replace(self, default=default)


def flags_of(home: str) -> list[Flag]:
    """The flags of a function or class, as "models.build:build_model" names it, in the order of its signature."""
    return [_flag(keyword, home) for keyword in keywords_of(home)]


def _flag(keyword: Keyword, home: str) -> Flag:
    annotation = eval(keyword.annotation, NAMESPACE) if keyword.annotation else type(keyword.default)
    read, words = _reader(annotation, f"{home}: {keyword.name}")
    return Flag(keyword.name, keyword.argument, keyword.default, read, _with_names(keyword.help), home, words)


def _reader(annotation: Any, name: str) -> tuple[Callable[[str], Any], str | None]:
    """The function from text to value that an annotation asks for, and how many words the flag takes."""
    if annotation in PLAIN_TYPES:
        return PLAIN_TYPES[annotation], None
    if typing.get_origin(annotation) is Literal:
        return core.types.one_of(typing.get_args(annotation)), None
    if typing.get_origin(annotation) is Annotated:
        _, read, *words = typing.get_args(annotation)
        return read, words[0] if words else None
    # `X | None` says that the flag may be left open.
    choices = [one for one in typing.get_args(annotation) if one is not types.NoneType]
    if len(choices) == 1:
        return _reader(choices[0], name)
    raise TypeError(f"{name}: no flag can be of the type {annotation}")


def _with_names(text: str) -> str:
    """A help text in which {losses} is replaced by the names that the folder's files register."""
    return re.sub(r"\{([\w/]+)\}", lambda match: ", ".join(registered(match[1])), text)
