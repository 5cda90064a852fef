"""The texts that a page shows beside an image: its label, its category, its file."""

import os
from pathlib import Path

from core.items import is_text, text_of
from data.records import Records

LONGEST_FILE, LONGEST_NAME = 80, 40  # characters


class Captions:
    """The texts of a list's images, each by its row. folder: what all paths begin with, with its slash."""

    def __init__(self, records: Records):
        self._paths = records.paths
        self._labels = records.label_texts
        self._categories = records.category_texts
        prefix = os.path.commonprefix([str(path) for path in records.paths if not is_text(path)])
        self.folder = prefix[: prefix.rfind("/") + 1]

    def label(self, row: int) -> str:
        return shortened(self._labels[row])

    def category(self, row: int) -> str | None:
        """The image's category; None where the list has none."""
        if self._categories is None:
            return None
        return shortened(self._categories[row])

    def file(self, row: int) -> str:
        """The image's path below `folder`; where it is endless its beginning gives way."""
        path = str(self._paths[row])
        if is_text(path):
            name = text_of(path)
            return f"{name[: LONGEST_FILE - 1]}…" if len(name) > LONGEST_FILE else name
        name = path[len(self.folder) :]
        if len(name) > LONGEST_FILE:
            name = f"…{name[1 - LONGEST_FILE :]}"
        return name


def shortened(name: str) -> str:
    """A label's or category's text, cut where it is endless."""
    text = str(name)
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME - 1]}…"
    return text


def list_name(records: Records) -> str:
    """What a list is called: its file or folder without those above it."""
    return Path(records.source).name
