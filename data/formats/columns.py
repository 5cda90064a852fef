"""Columns that a table has, beside those it may have."""

import difflib
import re
from collections.abc import Callable

ALIKE = 0.8  # of difflib: a column this close to a known one is a mistyped one


def tell_unknown(given: list[str], required: list[str], optional: list[str], tell: Callable[[str], None]) -> list[str]:
    """Columns of `given` that are not known; `tell` gets a sentence for each that seems a mistyped optional one.

    Those are not in what is returned. A mistyped column would else be ignored, and what it says with it.
    """
    unused = []
    # What is there already cannot be meant by another column.
    absent = [name for name in optional if name not in given]
    for column in given:
        if column in required or column in optional or not column:
            continue
        meant = next((name for name in absent if _is_mistyped(column, name)), None)
        if meant:
            tell(f"the column {column!r} is not known; if {meant!r} is meant, rename it")
        else:
            unused.append(column)
    return unused


def _is_mistyped(column: str, known: str) -> bool:
    """Whether a column differs from a known one by case, signs, an `is`, a plural, or a letter or two."""
    written, meant = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (column, known))
    stems = {name.removeprefix("is").removesuffix("s") for name in (written, meant)}
    if len(stems) == 1:
        return True
    return difflib.SequenceMatcher(None, written, meant).ratio() >= ALIKE
