"""Text to numbers as people write them: Python's own additions (1_000, other scripts' digits) are no numbers here."""

import re

INTEGER = re.compile(r"[+-]?[0-9]+")
FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
INT64 = range(-(2**63), 2**63)


def read_int(text: str) -> int:
    """An integer of decimal digits with an optional sign. Raises ValueError for anything else."""
    text = text.strip()
    if not INTEGER.fullmatch(text):
        raise ValueError(f"{text!r} is not an integer")
    return int(text)


def read_float(text: str) -> float:
    """A decimal number, inf or nan. Raises ValueError for anything else."""
    text = text.strip()
    if not FLOAT.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def is_plain_int64(text: str) -> bool:
    """Whether a text is an integer of 64 bits exactly as it is printed: 7 is, while 007, +7, 7.0 and 1_2 are not."""
    if not INTEGER.fullmatch(text) or len(text) > 20:
        return False
    value = int(text)
    return str(value) == text and value in INT64
