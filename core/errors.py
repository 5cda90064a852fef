"""What ends a script in a sentence: a user's mistake, with the near match that it offers, and a signal."""

import difflib
import re
import signal
import traceback
from collections.abc import Iterable

from core.text import one_of_several


class InputError(ValueError):
    """Something the user gave cannot work: the message names the value, the place and what is allowed.

    Scripts print it as one sentence and end with exit status 2.
    """


class Stopped(Exception):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int, sentence: str = ""):
        super().__init__(sentence)
        self.signal = signal.Signals(number)


def unknown(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """The error of a `name` that is none of `allowed`; `kind` is the word for what it should name, such as "loss"."""
    allowed = list(allowed)
    return InputError(f"unknown {kind} {name!r}; there are: {', '.join(allowed)}.{near_match(name, allowed)}")


def near_match(name: object, allowed: Iterable[str], most: int = 1) -> str:
    """Say which of `allowed` (strings) the user may have meant by `name`: ` Did you mean 'x'?` or an empty string.

    most: so many of them, the nearest first.
    """
    close = _closest(str(name), allowed, most)
    if not close:
        return ""
    return f" Did you mean {one_of_several(map(repr, close))}?"


def meant_by(name: str, given: Iterable[str]) -> str:
    """Say which of what the user gave (strings) may stand for the known `name`: its near match, or an empty string."""
    close = _closest(name, given, 1)
    if not close:
        return ""
    return f" Rename {close[0]!r} if it is meant."


def _closest(word: str, options: Iterable[str], most: int) -> list[str]:
    """Those of `options` which are most like `word`, whatever their cases, so many; none that is not much like it."""
    originals = {option.lower(): option for option in options}
    matches = difflib.get_close_matches(word.lower(), list(originals), n=most, cutoff=0.5)
    return [originals[match] for match in matches]


def raised(error: Exception) -> str:
    """What an error of somebody's own code says, its kind and the line that it comes from, on one line."""
    line = ""
    if error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = f" ({last.filename}:{last.lineno})"
    return f"{type(error).__name__}: {first_line(error)}{line}"


def first_line(error: Exception) -> str:
    """What an error says, or else its kind, on one line: the first that is neither empty, a colour nor a rule."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines()
    told = [line.strip() for line in lines if line.strip() and not line.startswith("--")]
    return told[0] if told else type(error).__name__
