"""The lists of recipes/demo_words.sh: the emoji's Unicode names as texts, alone and beside the test images.

python recipes/word_lists.py output/words

It writes names.csv, the names of the train labels to train with, and those of the test labels, each of which is to find
itself in other words; and words_test.csv, in which the names of the test labels ask and the test images are found, by
their paths in the embedded data set.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.files import make_folder, replacing  # noqa: E402
from core.text import counted
from data.embedded import embedded_data  # noqa: E402
from data.formats.csv import SPLITS  # noqa: E402
from data.lists import open_list  # noqa: E402

HEADER = ("label", "text", "path", "split", "is_query", "is_gallery")


def write_rows(file: Path, rows: list[tuple]) -> None:
    """Write a csv, whole or not at all."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows(rows)
    with replacing(file) as output:
        output.write(stream.getvalue().encode())
    print(f"written: {file}, {counted(len(rows), 'row')}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to write to")
    args = parser.parse_args(argv)
    folder = embedded_data()
    train, test = open_list("emoji.csv", None, "train"), open_list("emoji.csv", None, "test")
    make_folder(args.folder)
    names = [(label, train.names.of_label(label), "", SPLITS["train"], "", "") for label in train.vocabulary.labels]
    for label in test.vocabulary.labels:
        name = test.names.of_label(label)
        names.append((label, name, "", SPLITS["test"], True, False))
        names.append((label, f"a picture of {name}", "", SPLITS["test"], False, True))
    write_rows(args.folder / "names.csv", names)

    queries = [(label, test.names.of_label(label), "", SPLITS["test"], True, False) for label in test.vocabulary.labels]
    images = []
    for label, path in zip(test.labels.tolist(), test.paths.tolist()):
        images.append((label, "", Path(path).relative_to(folder), SPLITS["test"], False, True))
    write_rows(args.folder / "words_test.csv", queries + images)


if __name__ == "__main__":
    run_script(main)
