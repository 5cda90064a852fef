"""A csv list that is written of a folder per label."""

import csv
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import make_folder, replacing
from core.text import counted
from data.formats.csv import SPLITS
from data.formats.folders import label_folders


def write_label_list(
    folder: str | Path, output: str | Path, test_share: float, level: int, seed: int, overwrite: bool
) -> tuple[Path, Counter, str | None]:
    """Write a csv list of a folder per label; returns (its path, rows by split, note on what was left out or None).

    test_share: share of the labels, at random by `seed`, whose images are validation rows, to be tested on. level: how
    many folders make a label. Paths in the list start from `list_root`. Raises InputError for a share that leaves no
    label to train or to test on, and for an output that is there already.
    """
    output = Path(output)
    if output.suffix.lower() != ".csv":
        raise InputError(f"cannot write {str(output)!r}: a list of this kind has to end in .csv")
    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} is there already; give --overwrite to replace it")
    columns, note = label_folders(folder, level)

    labels = sorted(set(columns["labels"]))
    held_out = round(test_share * len(labels))
    if test_share and not 0 < held_out < len(labels):
        raise InputError(
            f"test_share={test_share:g} of {counted(len(labels), 'label')} is {held_out}: nothing is left on one side"
        )
    # By label, so that none is both trained with and tested on.
    shuffled = np.random.default_rng(seed).permutation(labels)
    test_labels = set(shuffled[:held_out].tolist())
    splits = [SPLITS["test"] if label in test_labels else SPLITS["train"] for label in columns["labels"]]

    # All of it is made before the file is: a name that cannot be written leaves nothing behind.
    encoded = encoded_list(_csv_text(columns, splits, list_root(folder, output)))
    make_folder(output.parent)
    with replacing(output) as file:
        file.write(encoded)
    return output, Counter(splits), note


def encoded_list(text: str) -> bytes:
    """The text of a list as its file has it. Raises InputError for a name of a file that UTF-8 cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n")
        raise InputError(f"a list is UTF-8, which cannot hold the file name in {text.splitlines()[line]!r}") from None


def list_root(folder: str | Path, output: str | Path) -> Path:
    """Where paths of a list that is written to `output` start: its folder, or `folder` if that is not below."""
    folder = Path(os.path.abspath(folder))
    list_folder = Path(os.path.abspath(output)).parent
    if folder.is_relative_to(list_folder):
        return list_folder
    return folder


def _csv_text(columns: dict[str, list[str]], splits: list[str], root: Path) -> str:
    """The text of a list: a row for each of `columns` {paths, labels, perhaps categories}, paths relative to `root`."""
    header = {"label": columns["labels"]}
    header["path"] = [os.path.relpath(path, root) for path in columns["paths"]]
    header["split"] = splits
    if "categories" in columns:
        header["category"] = columns["categories"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*header.values()))
    return text.getvalue()
