"""In-Shop Clothes Retrieval (DeepFashion): list_eval_partition.txt beside a folder `img` of images of 256 pixels."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from core.errors import InputError
from core.text import counted, plural
from data.convert._registry import (
    CONVERTERS,
    TEST,
    TRAIN,
    Archive,
    Counts,
    DataSet,
    Row,
    path_of_image,
    read_lines,
    read_whole,
    split_line,
)
from data.image.files import read_bytes
from data.image.header import image_size

PARTITION = "list_eval_partition.txt"
BOXES = "list_bbox_inshop.txt"
LONGEST_SIDE = 256
LOOKED_AT = 200  # images whose sides are read
STATUSES = ("train", "query", "gallery")
# Liu et al., DeepFashion, CVPR 2016. `oml`: without the images to train with that are the only one of their label; the
# counts are those before they are dropped. Its makers hand it out by Google Drive, some of it by a password.
FACTS = DataSet(
    title="In-Shop Clothes Retrieval",
    page="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html",
    archives=(Archive("img.zip", "img"),),
    protocols={
        "standard": Counts((25_882, 3_997), (26_830, 3_985), queries=14_218, gallery=12_612),
        "oml": Counts((25_882, 3_997), (26_830, 3_985), queries=14_218, gallery=12_612),
    },
    has_boxes=True,
)


def drop_lone(rows: list[Row]) -> list[Row]:
    """Without images to train with that are the only one of their label."""
    counts = Counter(row.label for row in rows)
    return [row for row in rows if row.split == TEST or counts[row.label] > 1]


@CONVERTERS.register("inshop", facts=FACTS, drops={"oml": drop_lone})
def inshop(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """Queries and gallery are apart; a category is the kind of cloth (`Denim`). Boxes are those of the 256 pixels."""
    partition = _find(folder, PARTITION, ("", "Eval"))
    images = _find(folder, "img", ("", "Img")).parent
    boxes = {}
    if with_boxes:
        boxes = _read_boxes(_find(folder, BOXES, ("", "Anno")))
    rows = []
    # The first line is the number of those below, the second names the columns: image_name item_id evaluation_status.
    lines = read_lines(partition)
    for number, line in enumerate(lines[2:], start=3):
        if not line.strip():
            continue
        name, item, status = split_line(partition, number, line, 3)
        status = status.strip()
        if status not in STATUSES:
            raise InputError(f"{partition}:{number}: the status is {status!r}, not one of {', '.join(STATUSES)}")
        label = str(read_whole(partition, number, item.rpartition("_")[2]))
        category = PurePosixPath(name).parent.parent.name
        path = path_of_image(folder, images, name, partition)
        split = TRAIN if status == "train" else TEST
        if with_boxes and name not in boxes:
            raise InputError(f"{partition}:{number}: {BOXES} has no box of {name!r}")
        rows.append(Row(label, path, split, status == "query", status == "gallery", category, box=boxes.get(name)))
    _check_number(partition, lines[:1], len(rows))
    _refuse_large(folder, rows)
    return rows


def _find(folder: Path, name: str, below: tuple[str, ...]) -> Path:
    """A file or folder, in the data set's folder or where its makers' folders have it."""
    for part in below:
        path = folder / part / name
        if path.exists():
            return path
    if name == "img" and any((*folder.glob("img_highres*"), *folder.glob("Img/img_highres*"))):
        raise InputError(
            f"{str(folder)!r} has img_highres alone; published figures are of img, the images of 256 pixels"
        )
    deeper = [found.parent for part in below for found in sorted(folder.glob(f"*/{part}/{name}"))]
    if deeper:
        raise InputError(f"no {name!r} in {str(folder)!r}, but in {str(deeper[0])!r}; give the folder of the whole set")
    raise InputError(f"no {name!r} in {str(folder)!r}, nor in {' or '.join(part for part in below if part)} below it")


def _check_number(file: Path, first: list[str], rows: int) -> None:
    """The first line says how many lines follow."""
    told = read_whole(file, 1, first[0]) if first else 0
    if told != rows:
        raise InputError(
            f"{file}:1: {counted(told, 'image')} {plural(told, 'is', 'are')} announced, but {counted(rows, 'line')} "
            f"{plural(rows, 'follows', 'follow')}; the file was cut short"
        )


def _read_boxes(file: Path) -> dict[str, tuple[int, int, int, int]]:
    """{image's name: box}."""
    boxes = {}
    for number, line in enumerate(read_lines(file)[2:], start=3):
        if line.strip():
            # image_name clothes_type pose_type x_1 y_1 x_2 y_2
            name, _, _, *sides = split_line(file, number, line, 7)
            boxes[name] = tuple(read_whole(file, number, side) for side in sides)
    return boxes


def _refuse_large(folder: Path, rows: list[Row]) -> None:
    """Raise InputError where images are larger than those of `img`: they are img_highres, by whatever name."""
    for index in np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int):
        path = folder / rows[index].path
        if not path.is_file():
            continue  # which is told of all images together
        size = image_size(read_bytes(path))
        if size is not None and max(size) > LONGEST_SIDE:
            raise InputError(
                f"{str(path)!r} has {size[1]} x {size[0]} pixels: that is img_highres; published figures are of img, "
                f"the images of {LONGEST_SIDE} pixels"
            )
