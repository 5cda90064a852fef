"""The texts and folders that lists are, each read to columns: one file a format, and the table of formats."""

from pathlib import Path

from data.formats.archives import archives_of, parse_archives
from data.formats.csv import parse_csv
from data.formats.problems import Problems
from data.formats.sop import parse_sop

# The format of a list by the suffix of its file. Any other suffix is read as SOP's format, too.
FORMATS = {".txt": parse_sop, ".csv": parse_csv}
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def parse(file: Path, split: str | None, problems: Problems) -> dict[str, list] | None:
    """The columns of list `file` for `split` ("train", "test", or None for all rows), {name: list}, rows in order.

    file: a text, a tar or parquet file, or a folder or pattern of these (data/formats/archives.py). `lines`, `paths`
    (as they are written) and `labels` (an array: integers if all labels of the file are plain ones, else strings) are
    always there; `categories`, `sequences`, `boxes`, `is_query` and `is_gallery` where the list has them. Images within
    archives have whole paths and `files`, and no `lines`. Rows in which something is wrong are left out and added to
    `problems`. None where the whole cannot be read.
    """
    archives = archives_of(file)
    if archives:
        return parse_archives(archives, split, problems)
    parse_format = FORMATS.get(file.suffix.lower(), parse_sop)
    try:
        return parse_format(file, split, problems)
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16, save it as UTF-8" if _is_utf16(file) else ""
        problems.add(0, f"not a list, nor any text in UTF-8: {error.reason} at byte {error.start}{hint}")
    except OSError as error:
        problems.add(0, f"cannot be read: {error.strerror}")
    return None


def _is_utf16(file: Path) -> bool:
    return file.read_bytes()[:2] in UTF16_MARKS
