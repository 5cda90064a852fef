"""Exporters that keep their warnings to themselves."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of exporters, which are about ways that we chose knowing them; errors are raised."""
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        yield
