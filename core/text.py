"""Paths and labels as a line on a terminal can show them."""

import os
import unicodedata
from collections.abc import Iterable

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # kinds of characters: control, surrogate, line and paragraph ends


def shown_path(path: object) -> str:
    """A path from where the user stands, if it lies below."""
    here = os.path.join(os.getcwd(), "")
    return str(path).removeprefix(here)


def plural(count: int, word: str, of_more: str | None = None) -> str:
    """A word that goes with a number: `image` with 1, `images` with any other; of_more: what has no s, as are of is."""
    if count == 1:
        return word
    if of_more is not None:
        return of_more
    # box: boxes, class: classes, query: queries; not day: days.
    if word.endswith(("s", "x", "sh", "ch")):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def counted(count: int, noun: str, form: str = "") -> str:
    """A number and its noun: `1 image`, `3 images`; form: of the number, as f-strings have it (`,`: `3,000 images`)."""
    return f"{count:{form}} {plural(count, noun)}"


def one_of_several(words: Iterable[str]) -> str:
    """Words between which there is a choice: `a`, `a or b`, `a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def class_name(kind: type) -> str:
    """A class with the module that it stands in, such as losses.eml.EmlLoss."""
    return f"{kind.__module__}.{kind.__name__}"


def printable(text: str) -> str:
    """A text on one line that a terminal can take: control characters, and bytes that are no UTF-8, as escapes."""
    characters = []
    for character in text:
        if unicodedata.category(character) in UNPRINTABLE:
            character = character.encode("unicode_escape").decode()
        characters.append(character)
    return "".join(characters)
