"""Lists and images: SOP lists and csv files to ImageList, image files to arrays. Nothing else opens either."""

import csv
import hashlib
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decoding import decode_whole
from errors import InputError, near_match

EMBEDDED = Path(__file__).parent / "data" / "emoji"
SOP_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
CSV_REQUIRED = ["label", "path", "split"]
CSV_BOX = ["x_1", "y_1", "x_2", "y_2"]
CSV_COLUMNS = [*CSV_REQUIRED, "is_query", "is_gallery", "category", "sequence", *CSV_BOX]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class ImageList:
    """One list of N labelled images, column by column.

    `labels` (N,) int64 as the file has them; `is_query`, `is_gallery` (N,) bool; `categories` and `sequences` are (N,)
    arrays of str or None; `boxes` is (N, 4) float64 left, top, right, bottom in pixels (NaN row: the whole image) or
    None; `source` is the file.
    """

    source: str
    paths: np.ndarray
    labels: np.ndarray
    is_query: np.ndarray
    is_gallery: np.ndarray
    categories: np.ndarray | None = None
    sequences: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def __len__(self):
        return len(self.paths)

    def take(self, indices):
        """The list of only these rows (indices or a mask)."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}
        return ImageList(self.source, **{name: None if c is None else c[indices] for name, c in columns.items()})


def open_list(path, data_dir, split):
    """Read one list; `split` ("train" or "test") picks the rows of a csv. Every image is checked to exist.

    `data_dir` None is the embedded set. A relative `path` is looked up below `data_dir`, then as it stands.
    Raises InputError with file:line for a missing folder, list or image and for a malformed line.
    """
    folder = embedded_data() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data_dir {str(folder)!r} is not a folder (Stanford Online Products: sh data/download_sop.sh)"
        )
    file = folder / path if (folder / path).is_file() else Path(path)
    if not file.is_file():
        raise InputError(f"no list {str(path)!r}, neither in {str(folder)!r} nor from here")
    try:
        images, lines = (_read_csv if file.suffix == ".csv" else _read_sop)(file, folder, split)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a list, nor any text in UTF-8: {error.reason} at byte {error.start}") from None
    missing = [i for i, image in enumerate(images.paths) if not os.path.isfile(image)]
    if missing:
        raise InputError(
            f"{file}:{lines[missing[0]]}: no image {str(images.paths[missing[0]])!r} "
            f"({len(missing)} of {len(images)} are missing)"
        )
    return images


def embedded_data():
    """The folder of the embedded emoji set, unpacked beside its archive the first time and when the archive changed."""
    archive, stamp = EMBEDDED.with_suffix(".zip"), EMBEDDED / ".archive"
    if not archive.is_file():
        raise InputError(f"the embedded data set {str(archive)!r} is missing; clone the repository whole")
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == checksum:
        return EMBEDDED
    folder = Path(tempfile.mkdtemp(dir=EMBEDDED.parent, prefix=".unpacking-"))
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "new")
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


def _integer(text, column, place):
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{place}: {column} is {text!r}, expected an integer") from None


def _read_sop(file, folder, split):
    labels, paths, categories, lines = [], [], [], []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split(maxsplit=3)
        if not words or words == SOP_COLUMNS:
            continue
        if len(words) != 4:
            raise InputError(
                f"{file}:{number}: expected 4 columns ({' '.join(SOP_COLUMNS)}), got {len(words)}: {line!r}"
            )
        labels.append(_integer(words[1], "class_id", f"{file}:{number}"))
        categories.append(words[2])
        paths.append(str(folder / words[3].strip()))
        lines.append(number)
    return _assemble(file, paths, labels, lines, categories=np.array(categories))


def _read_csv(file, folder, split):
    wanted = {"train": "train", "test": "validation"}[split]
    with open(file, newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        header = table.fieldnames or []
        for column in CSV_REQUIRED:
            if column not in header:
                raise InputError(f"{file}:1: no column {column!r} in {header}.{near_match(column, header)}")
        rows = [(table.line_num, row) for row in table]
    for number, row in rows:
        if None in row.values():
            raise InputError(f"{file}:{number}: expected {len(header)} columns ({', '.join(header)}), got fewer")
        if row["split"] not in ("train", "validation"):
            raise InputError(f"{file}:{number}: split is {row['split']!r}, expected train or validation")
    rows = [(number, row) for number, row in rows if row["split"] == wanted]
    if not rows:
        raise InputError(f"{file}: no row in it has the split {wanted}")
    present = [column for column in CSV_COLUMNS if column in header]
    lines = [number for number, _ in rows]
    optional = {}
    for column, name in (("category", "categories"), ("sequence", "sequences")):
        if column in present:
            optional[name] = np.array([row[column] for _, row in rows])
    absent = [column for column in CSV_BOX if column not in present]
    if 0 < len(absent) < len(CSV_BOX):
        raise InputError(f"{file}:1: a box needs {', '.join(CSV_BOX)}; there is no {', '.join(absent)}")
    if not absent:
        optional["boxes"] = np.array([_box(row, f"{file}:{number}") for number, row in rows]).reshape(-1, 4)
    for column in ("is_query", "is_gallery"):
        if column in present and wanted == "validation":
            optional[column] = np.array([_boolean(row[column], column, f"{file}:{number}") for number, row in rows])
    labels = [_integer(row["label"], "label", f"{file}:{number}") for number, row in rows]
    return _assemble(file, [str(folder / row["path"]) for _, row in rows], labels, lines, **optional)


def _boolean(text, column, place):
    if text.lower() not in BOOLEANS:
        raise InputError(f"{place}: {column} is {text!r}, expected True or False")
    return BOOLEANS[text.lower()]


def _box(row, place):
    texts = [row[column] or "nan" for column in CSV_BOX]
    try:
        left, top, right, bottom = box = [float(text) for text in texts]
    except ValueError:
        raise InputError(f"{place}: box {texts} is not four numbers ({', '.join(CSV_BOX)})") from None
    if not np.isnan(box).all() and not (0 <= left < right < np.inf and 0 <= top < bottom < np.inf):
        raise InputError(f"{place}: box {box} is not left < right, top < bottom (all empty: no box)")
    return box


def _assemble(file, paths, labels, lines, **optional):
    if not paths:
        raise InputError(f"{file}: no image in it")
    everyone = np.ones(len(paths), dtype=bool)
    columns = {"is_query": everyone, "is_gallery": everyone, **optional}
    return ImageList(str(file), np.array(paths), np.array(labels, dtype=np.int64), **columns), lines


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
    return _assemble(first, paths, [-1] * len(paths), None)[0]


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


def lone_queries(images):
    """How many queries have no positive in the gallery besides themselves."""
    labels, codes = np.unique(images.labels, return_inverse=True)
    positives = np.bincount(codes[images.is_gallery], minlength=len(labels))[codes] - images.is_gallery
    return int((positives[images.is_query] == 0).sum())


def read_bytes(path):
    """A file as (N,) uint8. Raises InputError when it cannot be read."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {str(path)!r}: {error.strerror}") from None


def read_image(path, box=None):
    """An image file as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` (pixels) if given."""
    return decode_whole(read_bytes(path), path, box)


def box_of(images, index):
    """The box of image `index` of a list, (4,) float64; None if the list has none."""
    return None if images.boxes is None else images.boxes[index]


def load(images, index):
    """Image `index` of a list, (H, W, 3) uint8 RGB, cropped to its box."""
    return read_image(images.paths[index], box_of(images, index))
