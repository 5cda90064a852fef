"""The text of lists, SOP's and csv, to columns: every row that is right, and all that is wrong, by its line."""

from pathlib import Path

from data.formats.csv import parse_csv
from data.formats.problems import Problems
from data.formats.sop import parse_sop


def parse(file: Path, split: str | None, faults: Problems) -> dict | None:
    """The columns of list `file` for `split` ("train", "test", or None for all rows), {name: list}, rows in order.

    `lines`, `paths` (as they are written) and `labels` (an array: integers if all labels of the file are plain ones,
    else strings) are always there; `categories`, `sequences`, `boxes`, `is_query` and `is_gallery` where the list has
    them. Rows in which something is wrong are left out, and `faults` is told. None where the whole cannot be read.
    """
    try:
        return (parse_csv if file.suffix.lower() == ".csv" else parse_sop)(file, split, faults)
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16, save it as UTF-8" if _is_utf16(file) else ""
        faults.say(0, f"not a list, nor any text in UTF-8: {error.reason} at byte {error.start}{hint}")
    except OSError as error:
        faults.say(0, f"cannot be read: {error.strerror}")
    return None


def _is_utf16(file: Path) -> bool:
    return file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
