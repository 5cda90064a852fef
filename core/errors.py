"""The one error type that a user's mistake raises, and the near match that its sentence offers."""

import difflib


class InputError(ValueError):
    """Something the user gave cannot work: the message names the value, the place and what is allowed.

    Scripts print it as one sentence and end with exit status 2.
    """


def near_match(name, allowed):
    """Say which of `allowed` (strings) the user may have meant by `name`: ` Did you mean 'x'?` or an empty string."""
    matches = difflib.get_close_matches(str(name).lower(), [option.lower() for option in allowed], n=1, cutoff=0.5)
    originals = {option.lower(): option for option in allowed}
    return f" Did you mean {originals[matches[0]]!r}?" if matches else ""


def meant_by(name, given):
    """Say which of what the user gave (strings) may stand for the known `name`: its near match, or an empty string."""
    matches = difflib.get_close_matches(name.lower(), [option.lower() for option in given], n=1, cutoff=0.5)
    originals = {option.lower(): option for option in given}
    return f" Rename {originals[matches[0]]!r} if it is meant." if matches else ""


def first_line(error: Exception) -> str:
    """What an error says, or else its kind, on one line."""
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
