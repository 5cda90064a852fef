"""Several lists in one flag: `a.csv,b.csv`."""

import os
import re
from pathlib import Path

COMMA = re.compile(r",(?![^{}]*\})")


def split_lists(text: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """The lists that a flag names, comma-separated. Where a file or folder has all of the text as its name, it is one;
    a comma within braces, as in `test-{0,1}.tar`, separates none.

    data_dir: the folder below which lists are looked up first.
    """
    if os.path.exists(text) or (data_dir is not None and os.path.exists(os.path.join(data_dir, text))):
        return (text,)
    return tuple(word.strip() for word in COMMA.split(text) if word.strip()) or (text,)


def list_titles(lists: tuple[str, ...]) -> tuple[str, ...]:
    """What each of several lists is called: its file's name, or all that was given where two files have that name."""
    names = [Path(text).name for text in lists]
    if len(set(names)) < len(names):
        return lists
    return tuple(names)
