"""What a converter is, and the table of converters."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from core.errors import InputError
from core.registry import Registry
from core.text import counted

# Functions (folder, protocol, with_boxes) -> rows, which raise InputError, naming file and line, for what is not as the
# data set's makers hand it out. Facts of each: `facts`, a DataSet; `drops`, where a protocol leaves
# out rows that its published counts have, {protocol: rows -> rows}.
CONVERTERS = Registry("data set")

TRAIN = "train"
TEST = "validation"


class Row(NamedTuple):
    """One image of a data set, as a line of a list.

    path: from the folder that the data set lies in. is_query, is_gallery: of images to test with. box: left, top,
    right, bottom in pixels. label_name: what the label is called, where the data set says so.
    """

    label: str
    path: str
    split: str
    is_query: bool = False
    is_gallery: bool = False
    category: str | None = None
    sequence: str | None = None
    box: tuple[int, int, int, int] | None = None
    label_name: str | None = None


@dataclass(frozen=True)
class Counts:
    """How many images and labels there are to train and to test with; queries, gallery: of the images to test with."""

    train: tuple[int, int]
    test: tuple[int, int]
    queries: int | None = None
    gallery: int | None = None

    @classmethod
    def of(cls, rows: list[Row]) -> "Counts":
        """Those of some rows."""
        train = [row for row in rows if row.split == TRAIN]
        test = [row for row in rows if row.split == TEST]
        return cls(
            (len(train), len({row.label for row in train})),
            (len(test), len({row.label for row in test})),
            sum(row.is_query for row in test),
            sum(row.is_gallery for row in test),
        )


@dataclass(frozen=True)
class Archive:
    """A file that a data set comes in.

    name: as its makers call it. holds: the file or folder that it unpacks to. md5, sha256: where they are known, of the
    published file. addresses: where it is had without asking anybody, tried in order.
    """

    name: str
    holds: str
    md5: str | None = None
    sha256: str | None = None
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set beside its rows.

    title: its name. page: where it is had. archives: the files that it comes in. protocols:
    its published counts by protocol, the first being the usual one. has_boxes: whether images have boxes.
    """

    title: str
    page: str
    archives: tuple[Archive, ...]
    protocols: dict[str, Counts]
    has_boxes: bool = False


def find_root(folder: Path, marks: tuple[str, ...], names: tuple[str, ...], comes_in: str) -> Path:
    """The folder in which all of `marks` are: `folder`, or one of `names` below it. Raises InputError for none.

    comes_in: the archive that they come in, as the sentence ends.
    """
    candidates = [folder, *(folder / name for name in names)]
    lacking = {}
    for root in candidates:
        absent = [mark for mark in marks if not (root / mark).exists()]
        if not absent:
            return root
        lacking[root] = absent
    # The folder that has most of them is the one that is meant.
    root = min(lacking, key=lambda each: len(lacking[each]))
    raise InputError(f"no {lacking[root][0]!r} in {str(root)!r}; it comes in {comes_in}")


def path_of_image(folder: Path, images: Path, name: str, table: Path) -> str:
    """The path of an image from the data set's folder; name: as `table` has it, from the folder `images`.

    Raises InputError for one that leads out of it.
    """
    parts = PurePosixPath(name).parts
    if ".." in parts or parts[:1] == ("/",):
        raise InputError(f"{table}: the image {name!r} does not lie below {str(images)!r}")
    return (images / name).relative_to(folder).as_posix()


def read_lines(file: Path) -> list[str]:
    """The lines of a text that came with a data set. Raises InputError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from None


def split_line(file: Path, number: int, line: str, words: int) -> list[str]:
    """The words of a line, the last of which may hold blanks. Raises InputError for another number of them."""
    found = line.split(maxsplit=words - 1)
    if len(found) != words:
        raise InputError(f"{file}:{number}: {counted(len(found), 'word')}, not {words}: {line[:100]!r}")
    return found


def read_whole(file: Path, number: int, text: object) -> int:
    """A whole number in a line or entry, as a text or a number. Raises InputError for anything else."""
    try:
        return int(float(text))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{file}:{number}: {text!r} is not a number") from None
