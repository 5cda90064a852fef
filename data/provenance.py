"""What is remembered of a list, so that another one can be told from it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from core.console import log
from core.errors import InputError
from core.files import checksum, read_json, run_folder
from core.sources import is_weights_name
from data.formats.archives import is_archive
from data.records import Records
from data.stored import StoredRecords


def describe_lists(train: Records, test: Records, more: Mapping[str, Records]) -> dict[str, dict[str, object]]:
    """{split: list_facts} of both lists, and of further test lists {title: list} as `test TITLE`."""
    described = {"train": list_facts(train), "test": list_facts(test)}
    for title, records in more.items():
        described[f"test {title}"] = list_facts(records)
    return described


def list_facts(records: Records) -> dict[str, object]:
    """What config.json remembers of a list; a folder is known by the files and labels that are in it."""
    source = Path(records.source)
    if isinstance(records, StoredRecords):
        digest = records.card["digest"]
    elif source.is_dir():
        digest = folder_checksum(records, source)
    elif is_archive(source) or not source.is_file():
        # Of archives by where images are in them, since nobody reads terabytes to know a list.
        digest = folder_checksum(records, source.parent)
    else:
        digest = checksum(source)
    return {
        "file": records.source,
        "sha256": digest,
        "images": len(records),
        "labels": len(records.vocabulary),
    }


def folder_checksum(records: Records, folder: Path) -> str:
    """SHA-256 over the paths below `folder` and the labels of a list, hexadecimal."""
    digest = hashlib.sha256()
    for path, label in zip(records.paths.tolist(), records.labels.tolist()):
        digest.update(os.fsencode(os.path.relpath(path, folder)))
        digest.update(f"\0{label}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def note_other_list(source: str | None, split: str, facts: dict[str, object]) -> None:
    """Say where the run `source` (--pretrained_model), if it is one, had another list for `split`.

    facts: list_facts of this one. A folder that does not tell of its lists, such as a stranger's, had none.
    """
    if not source or is_weights_name(source):
        return
    # Whatever else may stand there, it is a stranger's file.
    try:
        before = read_json(run_folder(source) / "config.json")["lists"][split]
        is_other = before["sha256"] != facts["sha256"]
        file = before["file"]
    except (FileNotFoundError, InputError, LookupError, TypeError):
        return
    if is_other:
        log(f"note: the {split} list is {facts['file']}, that of {source} was {file}")


def refuse_other_lists(now: dict[str, dict[str, object]], before: dict[str, dict[str, object]]) -> None:
    """Raise InputError where a list is not the one that an earlier run read; both {split: list_facts}."""
    for split, facts in now.items():
        if split not in before or facts["sha256"] != before[split]["sha256"]:
            raise InputError(f"the {split} list {facts['file']} is not what it was when the run began")
