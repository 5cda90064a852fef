"""Images and sounds that are named one by one, by folder or by a list; texts that are given themselves."""

import os
from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from core.items import file_of, text_item
from data.embedded import unpack_what_is_named
from data.formats.folders import find_files
from data.image.decode import check_opencv
from data.lists import is_list, open_list
from data.records import Records


def open_inputs(inputs: Sequence[str | Path], data_dir: str | Path | None) -> Records:
    """What infer.py embeds: a list (.txt, .csv; all of its rows), a folder (searched throughout) or files of
    images or sounds.

    Images that come without a list have no labels. Raises InputError for what does not exist or holds no image.
    """
    check_opencv()
    if is_list(inputs):
        return open_list(inputs[0], data_dir, None)
    paths = []
    notes = []
    for path in map(Path, inputs):
        unpack_what_is_named(path)
        if path.is_dir():
            files, note = find_files(path)
            paths.extend(files)
            if note is not None:
                notes.append(note)
        elif os.path.isfile(file_of(path)):
            paths.append(str(path))
        else:
            raise InputError(f"no file or folder {str(path)!r}")
    if not paths:
        left_out = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"no image in {', '.join(map(str, inputs))}{left_out}")
    return Records.of_columns(inputs[0], {"paths": paths}).with_notes(notes)


def open_texts(texts: Sequence[str]) -> Records:
    """Texts that are given as they are, without labels. Raises InputError for an empty one."""
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise InputError(f"text {number} of --text is empty")
    return Records.of_columns("--text", {"paths": [text_item(text.strip()) for text in texts]})
