"""The stamps of Tux Paint as a list of texts: what is on each, said in up to 75 languages; or of sounds: it is spoken.

python data/build_stamps.py /usr/share/tuxpaint/stamps output/texts/stamps.csv
python data/build_stamps.py /usr/share/tuxpaint/stamps output/sounds/stamps.csv --sounds

The stamps come with Debian's package tuxpaint-stamps-default (GPL-2), which recipes/fetch_stamps.sh fetches; nothing
of it is part of this repository. Of texts a label is a stamp, its category the folder it lies in; of sounds it is a
language, which one voice or a few read, and paths start from the stamps' folder. Half of the labels are to train with,
the others to be found. The list is the same on every machine that has the same stamps.
"""

import argparse
import csv
import io
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np  # noqa: E402

from core.errors import InputError  # noqa: E402
from core.files import make_folder, replacing  # noqa: E402
from data.formats.csv import SPLITS  # noqa: E402

MARK = ".utf8="  # between a language and the text in it; the first line of a stamp's file is English
HEADER = ("label", "text", "split", "is_query", "is_gallery", "category")
SOUNDS_HEADER = ("label", "path", "split", "is_query", "is_gallery")
SEED = 0  # of which labels are to train with, and which clips are taken
# A stamp's spoken name; one without a language is English.
SPOKEN = re.compile(r".*_desc(?:_([a-z]{2,3}(?:_[A-Z]{2})?))?\.(?:ogg|wav)")
ENGLISH = "en"
FEWEST, MOST = 50, 120  # clips of a language that are worth it, and that are taken


class Stamp:
    """What is said of one label: its texts in order, each once, and the folder of its first file."""

    def __init__(self, category: str):
        self.category = category
        self.texts: dict[str, None] = {}


def read_texts(file: Path) -> list[str]:
    """The texts of one stamp, English first. Raises InputError for a file that is no text in UTF-8."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} is no description of a stamp: {error}") from None
    texts = [line.partition(MARK)[2] if MARK in line else line for line in lines]
    return [" ".join(text.split()) for text in texts if text.strip()]


def read_stamps(folder: Path) -> dict[str, Stamp]:
    """{label: Stamp} of all stamps below a folder.

    Stamps that English calls the same, such as a letter and its outline, are one label, and a text that several labels
    have is left out: nobody could tell which is meant. Raises InputError for a folder without stamps.
    """
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise InputError(f"no stamps (*.txt) in {str(folder)!r}")
    stamps: dict[str, Stamp] = {}
    labels_of = defaultdict(set)
    for file in files:
        texts = read_texts(file)
        if not texts:
            continue
        label = texts[0].rstrip(".! ")
        stamp = stamps.setdefault(label, Stamp(file.relative_to(folder).parts[0]))
        for text in texts:
            stamp.texts[text] = None
            labels_of[text.casefold()].add(label)
    for stamp in stamps.values():
        stamp.texts = {text: None for text in stamp.texts if len(labels_of[text.casefold()]) == 1}
    return {label: stamp for label, stamp in stamps.items() if len(stamp.texts) > 1}


def read_spoken(folder: Path) -> dict[str, list[str]]:
    """{language: paths of its clips below a folder, in order}, MOST of each at random, of languages that have FEWEST.

    Raises InputError for a folder without any.
    """
    clips = defaultdict(list)
    for file in sorted([*folder.rglob("*.ogg"), *folder.rglob("*.wav")]):
        match = SPOKEN.fullmatch(file.name)
        if match:
            clips[match[1] or ENGLISH].append(file.relative_to(folder).as_posix())
    draws = np.random.default_rng(SEED)
    taken = {}
    for language in sorted(clips):
        if len(clips[language]) >= FEWEST:
            chosen = draws.permutation(len(clips[language]))[:MOST]
            taken[language] = [clips[language][number] for number in sorted(chosen.tolist())]
    if not taken:
        raise InputError(f"no {FEWEST} spoken names (NAME_desc_LANGUAGE.ogg) of any language in {str(folder)!r}")
    return taken


def labels_to_train(labels: Sequence[str]) -> set[str]:
    """Half of them, at random."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    return {labels[number] for number in order[: len(labels) // 2]}


def write_texts(stamps: dict[str, Stamp], file: Path) -> None:
    """Write the list of texts, whole or not at all, and say what is in it."""
    rows = {label: [[text, stamp.category] for text in stamp.texts] for label, stamp in stamps.items()}
    _write(rows, HEADER, file, "texts", "stamps")


def write_sounds(clips: dict[str, list[str]], file: Path) -> None:
    """Write the list of sounds, whole or not at all, and say what is in it."""
    rows = {language: [[path] for path in paths] for language, paths in clips.items()}
    _write(rows, SOUNDS_HEADER, file, "clips", "languages")


def _write(rows: dict[str, list[list[str]]], header: Sequence[str], file: Path, noun: str, labels: str) -> None:
    """rows: {label: [[text or path, whatever stands behind the flags], ...]}; noun, labels: what is counted."""
    to_train = labels_to_train(list(rows))
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(header)
    counts = {"train": 0, "test": 0}
    for label, items in rows.items():
        split = "train" if label in to_train else "test"
        flag = "" if split == "train" else "True"
        for item, *rest in items:
            table.writerow([label, item, SPLITS[split], flag, flag, *rest])
            counts[split] += 1
    make_folder(file.parent)
    with replacing(file) as output:
        output.write(stream.getvalue().encode())
    print(
        f"written: {file}, {counts['train']} {noun} of {len(to_train)} {labels} to train with, {counts['test']} of "
        f"{len(rows) - len(to_train)} to be found"
    )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the stamps are, such as /usr/share/tuxpaint/stamps")
    parser.add_argument("list", type=Path, help="the csv to write")
    parser.add_argument("--sounds", action="store_true", help="spoken names, with languages as labels, and no texts")
    flags = parser.parse_args(argv)
    try:
        if flags.sounds:
            write_sounds(read_spoken(flags.folder), flags.list)
        else:
            write_texts(read_stamps(flags.folder), flags.list)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
