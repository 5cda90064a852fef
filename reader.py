"""Lists and images: SOP lists, csv files and folders to ImageList, image files to arrays. Nothing else opens either.

python reader.py check data/emoji/emoji.csv
python reader.py check Ebay_train.txt Ebay_test.txt --data_dir=data/Stanford_Online_Products
python reader.py make photos --output=photos/list.csv --test_share=0.2
"""

if __name__ == "__main__":  # numpy and OpenCV bring OpenMP in some builds
    import openmp  # noqa: F401
import argparse
import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from checking import check_images, list_notes, place_of
from decoding import check_opencv, decode_whole
from errors import InputError
from folders import find_images, label_folders, list_root, write_label_list
from numerals import read_float, read_int
from parsing import NO_ROW, SPLITS, Faults, parse
from repeats import fold_repeats, note_repeats
from soundness import first_broken
from vocabulary import NO_NAMES, Names, Vocabulary, as_labels, read_names

EMBEDDED = Path(__file__).parent / "data" / "emoji"
LIST_SUFFIXES = (".txt", ".csv")
SHOWN_FAULTS = 20
MOST_UNPACKED = 2**30  # bytes that an archive may become


@dataclass(frozen=True)
class ImageList:
    """One list of N images, column by column.

    `labels` (N,) int64 where all labels of the file are plain integers, else str as the file has them; None where
    nobody knows any. `is_query`, `is_gallery` (N,) bool; `categories` and `sequences` are (N,) arrays of str or None;
    `boxes` is (N, 4) float64 left, top, right, bottom in pixels (NaN row: the whole image) or None; `source` is the
    file or folder and `lines` (N,) int64 where in it they stand, or None. `files` (N, 2) tells files on the disk apart,
    whatever their paths. `notes`: sentences on what should be known of the list; `names`: what labels are called.
    """

    source: str
    paths: np.ndarray
    labels: np.ndarray | None
    is_query: np.ndarray
    is_gallery: np.ndarray
    categories: np.ndarray | None = None
    sequences: np.ndarray | None = None
    boxes: np.ndarray | None = None
    lines: np.ndarray | None = None
    files: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    names: Names = NO_NAMES

    def __len__(self):
        return len(self.paths)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which labels there are, and which of them each image has."""
        return Vocabulary.of(self.labels)

    def label_text(self, index) -> str:
        """What the label of image `index` is called; `-` where nobody knows it."""
        return "-" if self.labels is None else self.names.of_label(self.labels[index])

    @property
    def label_texts(self) -> np.ndarray:
        """What each image's label is called, (N,) str; two labels are never called the same."""
        return self.names.of_labels(self.vocabulary.labels)[self.vocabulary.codes]

    @property
    def category_texts(self) -> np.ndarray | None:
        """What each image's category is called, (N,) str, or None without categories."""
        if self.categories is None:
            return None
        own, codes = np.unique(self.categories, return_inverse=True)
        return self.names.of_categories(own)[codes.reshape(-1)]

    def box_of(self, index):
        """The box of image `index`, (4,) float64; None if the list has none."""
        return None if self.boxes is None else self.boxes[index]

    def take(self, indices):
        """The list of only these rows (indices, a mask or a slice)."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in OF_THE_WHOLE}
        taken = {name: None if column is None else column[indices] for name, column in columns.items()}
        return dataclasses.replace(self, **taken)


OF_THE_WHOLE = ("source", "notes", "names")  # what an ImageList holds that is no column


def open_list(path, data_dir, split):
    """Read one list; `split` picks the rows of a csv: "train", "test", or None for all. As `open_lists`."""
    return open_lists([(path, split)], data_dir)[0]


def open_lists(wanted, data_dir):
    """Read lists, [(path, split), ...], to ImageLists; every row is checked, and every image to exist.

    A list is an SOP list, a csv, or a folder per label (folders.py). A relative path of a list is looked up below
    `data_dir`, then as it stands. Where `data_dir` is None that is the embedded set, and a list that is not there
    brings its own folder. Images to test with stand once in their list (repeats.py). Raises InputError for a missing
    folder, and one for all that is wrong with the lists, a line each, by file:line.
    """
    check_opencv()
    places = [find_list(path, data_dir) for path, _ in wanted]
    opened, told = [], {}
    for (path, split), place in zip(wanted, places):
        images, faults = _read_found(path, *place, split)
        opened.append(images)
        told.update(dict.fromkeys(faults))  # a csv that is opened for both splits says some things twice
    told = list(told)
    if not told and data_dir is None:
        told = _strangers(wanted, places)
    if len(told) > SHOWN_FAULTS:
        told[SHOWN_FAULTS:] = [f"and {len(told) - SHOWN_FAULTS} faults more; python reader.py check shows all"]
    if told:
        raise InputError("\n".join(told))
    return opened


def _strangers(wanted, places):
    """A sentence where one list is the embedded set's and another is not, which nobody can mean; else none."""
    of_embedded = [folder.resolve() == EMBEDDED.resolve() for _, folder in places]
    if len(set(of_embedded)) < 2:
        return []
    own, embedded = wanted[of_embedded.index(False)], wanted[of_embedded.index(True)]
    return [
        f"the {own[1]} list is {str(own[0])!r}, but the {embedded[1]} list is the embedded set's {str(embedded[0])!r}; "
        f"give --{embedded[1]}_list{', or --val_classes' * (embedded[1] == 'test')}"
    ]


def data_folder(data_dir):
    """The folder that paths start from. Raises InputError where there is none."""
    folder = embedded_data() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data_dir {str(folder)!r} is not a folder (Stanford Online Products: sh data/download_sop.sh)"
        )
    return folder


def find_list(path, data_dir):
    """(file or folder of a list, or None where it is nowhere; the folder that its paths start from)."""
    folder = data_folder(data_dir)
    below = Path(os.path.join(folder, path))
    if (below.is_file() or below.is_dir()) and not (data_dir is None and os.path.isabs(path)):
        return below, folder
    here = Path(path)
    if not (here.is_file() or here.is_dir()):
        return None, folder
    return here, here.parent if data_dir is None else folder


def read_list(path, data_dir, split):
    """(ImageList of the rows that are right, or None for no such row; sentences on all that is wrong, by file:line).

    split: "train", "test", "list" (unnamed, a train list's rules), or None: all rows, of whatever split.
    """
    return _read_found(path, *find_list(path, data_dir), split)


def _read_found(path, file, folder, split):
    """As `read_list`, of a list that was looked for already."""
    if file is None:
        return None, [f"no list {str(path)!r}, neither in {str(folder)!r} nor from here"]
    faults = Faults()
    images = _read_folder(file, faults) if file.is_dir() else _read_file(file, folder, split, faults)
    if images is not None:
        images = _with_names(images, faults)
        if split == "test":
            images = fold_repeats(images, faults)
            _tell_roles(images, faults)
        elif split is not None:
            images = note_repeats(images)
        images = dataclasses.replace(images, notes=tuple(faults.noted(file)) + images.notes)
    return images, faults.told(file)


def _read_folder(folder, faults):
    """The ImageList of a folder per label; None, and `faults` told, where it is none."""
    try:
        columns, note = label_folders(folder)
    except InputError as error:
        faults.say(0, str(error))
        return None
    faults.notes += [note] if note else []
    columns["labels"] = as_labels(columns["labels"])
    return _assemble(folder, {**columns, "files": [_file_key(os.stat(path)) for path in columns["paths"]]})


def _read_file(file, folder, split, faults):
    """The ImageList of a file; None, and `faults` told, where not one row is right."""
    columns = parse(file, split, faults)
    if columns is None:
        return None
    paths = [str(folder / path) for path in columns["paths"]]
    root = os.path.join(os.path.abspath(folder), "")
    files = []
    for line, written, whole in zip(columns["lines"], columns["paths"], paths):
        files.append(None)
        if (".." in written or os.path.isabs(written)) and not os.path.abspath(whole).startswith(root):
            faults.say(line, f"path {written!r} leads out of data_dir {str(folder)!r}; give a folder that holds it")
        elif not os.path.isfile(whole):
            faults.say(line, f"no image {whole!r}")
        else:
            files[-1] = _file_key(os.stat(whole))
    there = np.array([key is not None for key in files])
    if not there.any():
        return None
    columns["files"] = [key or (0, 0) for key in files]
    return _assemble(file, {**columns, "paths": paths}).take(there)


def _file_key(status):
    """What tells a file apart from all others on this machine."""
    return status.st_dev, status.st_ino


def _with_names(images, faults):
    try:
        return dataclasses.replace(images, names=read_names(images.source))
    except InputError as error:
        faults.say(0, str(error))
        return images


def _tell_roles(images, faults):
    """Tell `faults` where a list to test with has nobody who asks, or nothing that can be found."""
    for flags, column, lack in (
        (images.is_query, "is_query", "nobody asks"),
        (images.is_gallery, "is_gallery", "nothing can be found"),
    ):
        if not flags.any():
            faults.say(0, f"no row of the split {SPLITS['test']} has {column} True, so {lack}")


def embedded_data():
    """The folder of the embedded emoji set, unpacked beside its archive the first time and when the archive changed.

    The table of names, if there is one beside the archive, is unpacked with it.
    """
    archive, stamp = EMBEDDED.with_suffix(".zip"), EMBEDDED / ".archive"
    names = EMBEDDED.with_name(f"{EMBEDDED.name}_names.csv")
    if not archive.is_file():
        raise InputError(f"the embedded data set {str(archive)!r} is missing; clone the repository whole")
    sources = [archive, names] if names.is_file() else [archive]
    checksum = " ".join(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources)
    if stamp.is_file() and stamp.read_text() == checksum:
        return EMBEDDED
    folder = Path(tempfile.mkdtemp(dir=EMBEDDED.parent, prefix=".unpacking-"))
    try:
        _unpack(archive, folder / "new")
        if names.is_file():
            shutil.copyfile(names, folder / "new" / "label_names.csv")
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
    kinds = {"lines": np.int64, "files": np.uint64}
    arrays = {name: np.array(column, dtype=kinds.get(name)) for name, column in columns.items() if column is not None}
    return ImageList(str(source), **{"labels": None, "is_query": everyone, "is_gallery": everyone, **arrays})


def is_list(inputs):
    """Whether what --input names is one list, and not images."""
    return len(inputs) == 1 and Path(inputs[0]).suffix.lower() in LIST_SUFFIXES


def open_inputs(inputs, data_dir):
    """What infer.py embeds: a list (.txt, .csv; all of its rows), a folder (searched throughout) or image files.

    Images that come without a list have no labels. Raises InputError for what does not exist or holds no image.
    """
    check_opencv()
    if is_list(inputs):
        return open_list(inputs[0], data_dir, None)
    paths, notes = [], []
    for path in map(Path, inputs):
        if path.is_dir():
            found, note = find_images(path)
            paths += found
            notes += [note] if note else []
        elif path.is_file():
            paths.append(str(path))
        else:
            raise InputError(f"no file or folder {str(path)!r}")
    if not paths:
        left_out = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"no image in {', '.join(map(str, inputs))}{left_out}")
    return dataclasses.replace(_assemble(inputs[0], {"paths": paths}), notes=tuple(notes))


def refuse_broken_images(lists):
    """Raise InputError where images of some lists cannot be read: found now, and not in the middle of the work."""
    told = []
    for images in lists:
        broken = first_broken(images, SHOWN_FAULTS + 1)
        told += [f"{place_of(images, row)}: {sentence}" for row, sentence in broken]
    if len(told) > SHOWN_FAULTS:
        told[SHOWN_FAULTS:] = ["and more of them; python reader.py check shows all"]
    if told:
        raise InputError("\n".join(told))


def hold_out(images, count, seed=0):
    """Split a list by label: `count` random labels for validation. Returns (train, validation).

    Which labels depends on `count` and `seed` alone, so that two stages of any --seed hold out the same. Each image to
    validate with stands once in its list.
    """
    labels = images.vocabulary.labels
    if not 0 < count < len(labels):
        raise InputError(f"val_classes is {count}; with {len(labels)} train labels it can be 1 to {len(labels) - 1}")
    held = np.isin(images.labels, np.random.default_rng([seed, count]).permutation(labels)[:count])
    faults = Faults()
    validation = images.take(held)
    validation = fold_repeats(validation, faults)
    if faults:
        raise InputError("\n".join(faults.told(images.source)))
    return images.take(~held), validation


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
    check_opencv()
    is_table = len(paths) == 1 and paths[0].lower().endswith(".csv")
    paths = paths * 2 if is_table else paths
    splits = ("train", "test") if len(paths) == 2 else ("list",)
    found = {split: read_list(path, data_dir, split) for split, path in zip(splits, paths)}
    lists = {split: images for split, (images, _) in found.items() if images is not None}
    faults = list(dict.fromkeys(fault for _, told in found.values() for fault in told))  # a csv says some things twice
    of_rows = [fault for fault in faults if NO_ROW not in fault]
    if is_table and (lists or of_rows):
        faults = of_rows  # it may well hold one split alone
    told = faults + check_images(lists, read_bytes)
    for note in _all_notes(lists):
        print(f"note: {note}")
    print("".join(f"{fault}\n" for fault in told) + f"{len(told)} fault{'s' * (len(told) != 1)}")
    return len(told)


def _all_notes(lists):
    """The notes of one or two lists, {split: ImageList}, each once."""
    if len(lists) == 2:
        return list_notes(**lists)
    return [note for images in lists.values() for note in images.notes]


def make(flags):
    """Write the list of a folder per label and say what is in it and how it is used."""
    output, counts, note = write_label_list(
        flags.folder, flags.output, flags.test_share, flags.label_level, flags.seed, flags.overwrite
    )
    for line in [f"note: {note}"] if note else []:
        print(line)
    print(f"written: {output}, {counts['train']} images to train with, {counts['validation']} to test with")
    root = list_root(flags.folder, output)
    needs_root = root != Path(os.path.abspath(output)).parent
    test = f" --test_list={output}" if counts["validation"] else " --val_classes=..."
    print(f"python train_elem.py --train_list={output}{test}{f' --data_dir={flags.folder}' * needs_root}")


def _share(text):
    try:
        share = read_float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return share


def _level(text):
    try:
        level = read_int(text)
    except ValueError:
        level = 0
    if level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folders, 1 or more")
    return level


def main(argv):
    """The command line of this file; `check` ends with the status 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    checking = tasks.add_parser("check", help="read lists and all their images, and tell what is wrong")
    checking.add_argument(
        "lists", nargs="+", metavar="LIST", help="a csv, an SOP list or a folder per label; or a train and a test list"
    )
    checking.add_argument(
        "--data_dir", help="folder that the lists' paths start from (default: the embedded emoji set, else the list's)"
    )
    making = tasks.add_parser("make", help="write a csv list of a folder that has a folder per label")
    making.add_argument("folder", metavar="FOLDER", help="searched throughout; FOLDER/LABEL/image.jpg, or deeper")
    making.add_argument("--output", required=True, metavar="LIST.csv", help="the list to write")
    making.add_argument(
        "--test_share", type=_share, default=0.0, help="share of the labels to test on and not to train on (default 0)"
    )
    making.add_argument("--label_level", type=_level, default=1, help="2: FOLDER/CATEGORY/LABEL/image.jpg (default 1)")
    making.add_argument("--seed", type=read_int, default=0, help="of the choice of the labels to test on (default 0)")
    making.add_argument("--overwrite", action="store_true", help="replace a list that is there")
    flags = parser.parse_args(argv)
    try:
        if flags.task == "make":
            make(flags)
            return
        if len(flags.lists) > 2:
            parser.error(f"{len(flags.lists)} lists are given; one, or a train and a test list can be checked")
        sys.exit(1 if check(flags.lists, flags.data_dir) else 0)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
