"""Our sentences as exceptions of the kinds that EasyDL raises, so that who catches those catches these."""

from typing import Any

from core.errors import InputError


class RefusedFrame(InputError, AssertionError):
    """A data frame that EasyDL asserts to be another."""


def check_columns(frame: Any, *names: str) -> None:
    """Raise RefusedFrame where a data frame has not all of these columns, or no row."""
    for name in names:
        if name not in frame.columns:
            raise RefusedFrame(f"the data frame has no column {name!r}; it has: {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise RefusedFrame("the data frame has no rows")
