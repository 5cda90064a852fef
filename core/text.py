"""Paths and labels as a line on a terminal can show them."""

import os
import unicodedata

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # kinds of characters: control, surrogate, line and paragraph ends


def shown_path(path: object) -> str:
    """A path from where the user stands, if it lies below."""
    here = os.path.join(os.getcwd(), "")
    return str(path).removeprefix(here)


def printable(text: str) -> str:
    """A text on one line that a terminal can take: control characters, and bytes that are no UTF-8, as escapes."""
    characters = []
    for character in text:
        if unicodedata.category(character) in UNPRINTABLE:
            character = character.encode("unicode_escape").decode()
        characters.append(character)
    return "".join(characters)
