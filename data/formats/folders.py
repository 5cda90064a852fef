"""Folders of image files: all images below one, whatever their names, and a folder per label as a list."""

import csv
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import make_folder, replacing
from data.image.header import FORMATS, is_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FIRST_BYTES = 16  # that tell the format


class LeftOut:
    """What a search of a folder passes over, by reason, each with its number and one example."""

    def __init__(self):
        self.numbers, self.examples = Counter(), {}

    def add(self, reason: str, path: str):
        self.numbers[reason] += 1
        self.examples.setdefault(reason, path)

    def sentence(self, folder) -> str | None:
        """All of it in one sentence; None where nothing was left out."""
        if not self.numbers:
            return None
        parts = [
            f"{number} {reason} ({os.path.relpath(self.examples[reason], folder)}{', for one' if number > 1 else ''})"
            for reason, number in self.numbers.items()
        ]
        return f"left out of {str(folder)!r}: {'; '.join(parts)}"


def find_images(folder: str | Path) -> tuple[list[str], str | None]:
    """(paths of all images below a folder, in order; a sentence on what was left out, or None).

    A file is an image by its first bytes, or by its suffix, so that a damaged one is told of and not lost. Links are
    followed, each folder is searched once. Files and folders whose names begin with a dot are left out.
    """
    found, left_out, searched = [], LeftOut(), set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in searched:
            left_out.add("linked folders that were searched already", place)
            folders.clear()
            continue
        searched.add((status.st_dev, status.st_ino))
        for name in [name for name in folders if name.startswith(".")]:
            left_out.add("hidden files or folders", os.path.join(place, name))
            folders.remove(name)
        folders.sort()
        for name in files:
            path = os.path.join(place, name)
            reason = _reason_against(path, name)
            if reason is None:
                found.append(path)
            else:
                left_out.add(reason, path)
    return sorted(found), left_out.sentence(folder)


def _reason_against(path: str, name: str) -> str | None:
    """Why a file is not taken; None where it is."""
    if name.startswith("."):
        return "hidden files or folders"
    if not os.path.exists(path):
        return "links that lead nowhere"
    if not os.path.isfile(path):
        return "special files"
    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError:
        return "files that cannot be opened"
    return None if is_image(start) else f"files that are no {FORMATS}"


def label_folders(folder: str | Path, level: int = 1) -> tuple[dict[str, list], str | None]:
    """(columns of a list {paths, labels, categories}, a sentence on what was left out, or None) of a folder per label.

    An image's label is the path of the `level` folders below `folder` that it lies in, its category, from level 2 on,
    that of all but the last of them. Raises InputError where no image lies so deep.
    """
    folder = Path(folder)
    paths, note = find_images(folder)
    columns = {"paths": [], "labels": [], "categories": []}
    shallow = []
    for path in paths:
        steps = Path(path).relative_to(folder).parts[:-1]
        if len(steps) < level:
            shallow.append(path)
            continue
        columns["paths"].append(path)
        columns["labels"].append("/".join(steps[:level]))
        columns["categories"].append("/".join(steps[: level - 1]))
    if not columns["paths"]:
        raise InputError(
            f"no image lies in a folder of its label below {str(folder)!r}: {str(folder / 'LABEL' / 'image.jpg')!r} "
            f"is what is looked for ({len(paths)} images there lie elsewhere)"
        )
    if level == 1:
        del columns["categories"]
    notes = [note] if note else []
    if shallow:
        where = os.path.relpath(shallow[0], folder)
        notes.append(f"{len(shallow)} images ({where}, for one) lie in no folder of a label and are left out")
    return columns, "; ".join(notes) or None


def write_label_list(folder, output, test_share=0.0, level=1, seed=0, overwrite=False):
    """Write a csv list of a folder per label; returns (its path, rows by split, note on what was left out or None).

    test_share: share of the labels, at random by `seed`, whose images are validation rows, to be tested on. Paths in
    the list start from the list's own folder where `folder` lies below it, else from `folder`. Raises InputError for a
    share that leaves no label to train or to test on, and for an output that is there already.
    """
    output = Path(output)
    if output.suffix.lower() != ".csv":
        raise InputError(f"cannot write {str(output)!r}: a list of this kind has to end in .csv")
    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} is there already; give --overwrite to replace it")
    columns, note = label_folders(folder, level)
    labels = sorted(set(columns["labels"]))
    held = round(test_share * len(labels))
    if test_share and not 0 < held < len(labels):
        raise InputError(f"test_share={test_share:g} of {len(labels)} labels is {held}: nothing is left on one side")
    shuffled = np.random.default_rng(seed).permutation(labels)
    test_labels = set(shuffled[:held].tolist())
    start = list_root(folder, output)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_category = "categories" in columns
    writer.writerow(["label", "path", "split"] + ["category"] * with_category)
    counts = Counter()
    for row, (path, label) in enumerate(zip(columns["paths"], columns["labels"])):
        split = "validation" if label in test_labels else "train"
        counts[split] += 1
        category = [columns["categories"][row]] if with_category else []
        writer.writerow([label, os.path.relpath(path, start), split, *category])
    try:
        encoded = text.getvalue().encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"a list is UTF-8, which cannot hold the file name that has {name!r} in it") from None
    make_folder(output.parent)
    with replacing(output) as file:
        file.write(encoded)
    return output, counts, note


def list_root(folder, output) -> Path:
    """Where paths of a list that is written to `output` start: its folder, or `folder` if that is not below."""
    folder, beside = Path(os.path.abspath(folder)), Path(os.path.abspath(output)).parent
    return beside if folder.is_relative_to(beside) else folder
