"""Lists and images: SOP lists and csv files to ImageList, image files to arrays. Nothing else opens either.

python reader.py check data/emoji/emoji.csv
python reader.py check Ebay_train.txt Ebay_test.txt --data_dir=data/Stanford_Online_Products
"""

if __name__ == "__main__":  # numpy and OpenCV bring OpenMP in some builds
    import openmp  # noqa: F401
import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checking import check_images, list_notes
from decoding import decode_whole
from errors import InputError
from parsing import NO_ROW, Faults, parse

EMBEDDED = Path(__file__).parent / "data" / "emoji"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SHOWN_FAULTS = 20
MOST_UNPACKED = 2**30  # bytes that an archive may become


@dataclass(frozen=True)
class ImageList:
    """One list of N labelled images, column by column.

    `labels` (N,) int64 as the file has them; `is_query`, `is_gallery` (N,) bool; `categories` and `sequences` are (N,)
    arrays of str or None; `boxes` is (N, 4) float64 left, top, right, bottom in pixels (NaN row: the whole image) or
    None; `source` is the file and `lines` (N,) int64 where in it they stand, or None.
    """

    source: str
    paths: np.ndarray
    labels: np.ndarray
    is_query: np.ndarray
    is_gallery: np.ndarray
    categories: np.ndarray | None = None
    sequences: np.ndarray | None = None
    boxes: np.ndarray | None = None
    lines: np.ndarray | None = None

    def __len__(self):
        return len(self.paths)

    def box_of(self, index):
        """The box of image `index`, (4,) float64; None if the list has none."""
        return None if self.boxes is None else self.boxes[index]

    def take(self, indices):
        """The list of only these rows (indices or a mask)."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}
        return ImageList(self.source, **{name: None if c is None else c[indices] for name, c in columns.items()})


def open_list(path, data_dir, split):
    """Read one list; `split` ("train" or "test") picks the rows of a csv. As `open_lists`."""
    return open_lists([(path, split)], data_dir)[0]


def open_lists(wanted, data_dir):
    """Read lists, [(path, split), ...], to ImageLists; every row is checked, and every image to exist.

    `data_dir` None is the embedded set. A relative path of a list is looked up below `data_dir`, then as it stands.
    Raises InputError for a missing folder, and one for all that is wrong with the lists, a line each, by file:line.
    """
    folder, opened, told = data_folder(data_dir), [], {}
    for path, split in wanted:
        images, faults = read_list(path, folder, split)
        opened.append(images)
        told.update(dict.fromkeys(faults))  # a csv that is opened for both splits says some things twice
    told = list(told)
    if len(told) > SHOWN_FAULTS:
        told[SHOWN_FAULTS:] = [f"and {len(told) - SHOWN_FAULTS} faults more; python reader.py check shows all"]
    if told:
        raise InputError("\n".join(told))
    return opened


def data_folder(data_dir):
    """The folder that paths start from. Raises InputError where there is none."""
    folder = embedded_data() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data_dir {str(folder)!r} is not a folder (Stanford Online Products: sh data/download_sop.sh)"
        )
    return folder


def read_list(path, folder, split):
    """(ImageList of the rows that are right, or None for no such row; sentences on all that is wrong, by file:line)."""
    below = os.path.join(folder, path)
    file = Path(below if os.path.isfile(below) else path)
    if not os.path.isfile(file):
        return None, [f"no list {str(path)!r}, neither in {str(folder)!r} nor from here"]
    faults = Faults()
    columns = parse(file, split, faults)
    if columns is None:
        return None, faults.told(file)
    paths = [str(folder / path) for path in columns["paths"]]
    root = os.path.join(os.path.abspath(folder), "")
    there = []
    for line, written, whole in zip(columns["lines"], columns["paths"], paths):
        if (".." in written or os.path.isabs(written)) and not os.path.abspath(whole).startswith(root):
            faults.say(line, f"path {written!r} leads out of data_dir {str(folder)!r}; give a folder that holds it")
            there.append(False)
        else:
            there.append(os.path.isfile(whole))
            if not there[-1]:
                faults.say(line, f"no image {whole!r}")
    images = _assemble(file, {**columns, "paths": paths})
    return images.take(np.flatnonzero(there)) if any(there) else None, faults.told(file)


def embedded_data():
    """The folder of the embedded emoji set, unpacked beside its archive the first time and when the archive changed."""
    archive, stamp = EMBEDDED.with_suffix(".zip"), EMBEDDED / ".archive"
    if not archive.is_file():
        raise InputError(f"the embedded data set {str(archive)!r} is missing; clone the repository whole")
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == checksum:
        return EMBEDDED
    folder = Path(tempfile.mkdtemp(dir=EMBEDDED.parent, prefix=".unpacking-"))
    try:
        _unpack(archive, folder / "new")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        shutil.rmtree(folder)
        raise InputError(f"cannot unpack the embedded data set {str(archive)!r}: {error}") from None
    (folder / "new" / stamp.name).write_text(checksum)
    try:
        if EMBEDDED.exists():
            os.rename(EMBEDDED, folder / "old")
        os.rename(folder / "new", EMBEDDED)
    except OSError:
        if not stamp.is_file():  # else another process was faster, and its copy is whole
            raise
    shutil.rmtree(folder)
    return EMBEDDED


def _unpack(archive, folder):
    """Unpack a zip. Raises BadZipFile, and writes nothing, for names that lead out of `folder` and for a bomb."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
                raise zipfile.BadZipFile(f"{name!r} in it leads out of the folder")
        size = sum(member.file_size for member in file.infolist())
        if size > MOST_UNPACKED:
            raise zipfile.BadZipFile(f"it would take {size:,} bytes, more than {MOST_UNPACKED:,}")
        file.extractall(folder)


def _assemble(source, columns):
    """An ImageList of columns, {name: list}; without flags every row is a query and in the gallery."""
    everyone = np.ones(len(columns["paths"]), dtype=bool)
    kinds = {"labels": np.int64, "lines": np.int64}
    arrays = {name: np.array(column, dtype=kinds.get(name)) for name, column in columns.items()}
    return ImageList(str(source), **{"is_query": everyone, "is_gallery": everyone, **arrays})


def open_inputs(inputs, data_dir):
    """What infer.py embeds: a list (.txt, .csv), a folder (searched throughout) or image files, as one ImageList.

    Images that come without a list have the label -1. Raises InputError for what does not exist or holds no image.
    """
    first = Path(inputs[0])
    if len(inputs) == 1 and first.suffix in (".txt", ".csv"):
        return open_list(first, data_dir, "test")
    paths = []
    for path in map(Path, inputs):
        if path.is_dir():
            paths += sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            paths.append(str(path))
        else:
            raise InputError(f"no file or folder {str(path)!r}")
    if not paths:
        raise InputError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(map(str, inputs))}")
    return _assemble(first, {"paths": paths, "labels": [-1] * len(paths)})


def hold_out(images, count, seed=0):
    """Split a list by label: `count` random labels for validation. Returns (train, validation).

    Which labels depends on `count` and `seed` alone, so that two stages of any --seed hold out the same.
    """
    labels = np.unique(images.labels)
    if not 0 < count < len(labels):
        raise InputError(f"val_classes is {count}; with {len(labels)} train labels it can be 1 to {len(labels) - 1}")
    held = np.isin(images.labels, np.random.default_rng([seed, count]).permutation(labels)[:count])
    return images.take(~held), images.take(held)


def class_codes(images):
    """Labels remapped to 0 … C-1 in ascending order, (N,) int64, and C."""
    labels, codes = np.unique(images.labels, return_inverse=True)
    return codes.astype(np.int64), len(labels)


def read_bytes(path):
    """A file as (N,) uint8. Raises InputError when it cannot be read."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {str(path)!r}: {error.strerror}") from None


def read_image(path, box=None):
    """An image file as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` (pixels) if given."""
    return decode_whole(read_bytes(path), path, box)


def load(images, index):
    """Image `index` of a list, (H, W, 3) uint8 RGB, cropped to its box."""
    return read_image(images.paths[index], images.box_of(index))


def check(paths, data_dir):
    """Print what is in a list, or in a train and a test list, and all that is wrong; returns the number of faults."""
    folder, is_table = data_folder(data_dir), len(paths) == 1 and paths[0].endswith(".csv")
    paths = paths * 2 if is_table else paths
    splits = ("train", "test") if len(paths) == 2 else ("list",)
    found = {split: read_list(path, folder, split) for split, path in zip(splits, paths)}
    lists = {split: images for split, (images, _) in found.items() if images is not None}
    faults = {fault: None for _, told in found.values() for fault in told}  # a csv says some things twice
    if is_table and lists:
        faults = [fault for fault in faults if NO_ROW not in fault]  # it may well hold one split alone
    told = list(faults) + check_images(lists, read_bytes)
    for note in list_notes(**lists) if len(lists) == 2 else ():
        print(f"note: {note}")
    print("".join(f"{fault}\n" for fault in told) + f"{len(told)} fault{'s' * (len(told) != 1)}")
    return len(told)


def main(argv):
    """The command line of this file; ends with the status 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["check"], help="read lists and all their images, and tell what is wrong")
    parser.add_argument("lists", nargs="+", metavar="LIST", help="a csv or an SOP list; or a train and a test list")
    parser.add_argument("--data_dir", help="folder that the lists' paths start from (default: the embedded emoji set)")
    flags = parser.parse_args(argv)
    if len(flags.lists) > 2:
        parser.error(f"{len(flags.lists)} lists are given; one, or a train and a test list can be checked")
    try:
        sys.exit(1 if check(flags.lists, flags.data_dir) else 0)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
