"""What ends a script in a sentence: a user's mistake, with the near match that it offers, and a signal."""

import difflib
import signal
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot work: the message names the value, the place and what is allowed.

    Scripts print it as one sentence and end with exit status 2.
    """


class Stopped(Exception):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int, sentence: str = ""):
        super().__init__(sentence)
        self.signal = signal.Signals(number)


def near_match(name: str, allowed: Iterable[str]) -> str:
    """Say which of `allowed` (strings) the user may have meant by `name`: ` Did you mean 'x'?` or an empty string."""
    originals = {option.lower(): option for option in allowed}
    matches = difflib.get_close_matches(str(name).lower(), originals, n=1, cutoff=0.5)
    return f" Did you mean {originals[matches[0]]!r}?" if matches else ""


def meant_by(name: str, given: Iterable[str]) -> str:
    """Say which of what the user gave (strings) may stand for the known `name`: its near match, or an empty string."""
    originals = {option.lower(): option for option in given}
    matches = difflib.get_close_matches(name.lower(), originals, n=1, cutoff=0.5)
    return f" Rename {originals[matches[0]]!r} if it is meant." if matches else ""
