"""Cars196 (Stanford Cars): MATLAB tables beside folders of images, in either of the two forms that it comes in."""

from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError, first_line
from core.packages import needed
from data.convert._registry import (
    CONVERTERS,
    TEST,
    TRAIN,
    Archive,
    Counts,
    DataSet,
    Row,
    find_root,
    path_of_image,
    read_whole,
)

TRAIN_CLASSES = 98
WHOLE = "cars_annos.mat"
HALVES = {"devkit/cars_train_annos.mat": ("cars_train", TRAIN), "cars_test_annos_withlabels.mat": ("cars_test", TEST)}
NAMES_OF_HALVES = "devkit/cars_meta.mat"
BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
# Krause et al., 2013. `standard`: the first 98 classes to train with, the others to test with (Song et al., CVPR 2016).
# `oml`: the makers' own halves of each class's images, which are for classification, as OML's list has them. Its server
# is gone; the MD5 are those on record in torchvision and, of the first two, in code of several papers.
FACTS = DataSet(
    title="Cars196",
    page="https://www.kaggle.com/datasets (its makers' server is gone)",
    archives=(
        Archive("car_ims.tgz", "car_ims", md5="d5c8f0aa497503f355e17dc7886c3f14"),
        Archive("cars_train.tgz", "cars_train", md5="065e5b463ae28d29e77c1b4b166cfe61"),
        Archive("cars_test.tgz", "cars_test", md5="4ce7ebf6a94d07f1952d94dd34c4d501"),
        Archive("car_devkit.tgz", "devkit", md5="c3b158d763b6e2245038c8ad08e45376"),
    ),
    protocols={"standard": Counts((8_054, 98), (8_131, 98)), "oml": Counts((8_144, 196), (8_041, 196))},
    has_boxes=True,
)


@CONVERTERS.register("cars", facts=FACTS)
def cars(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """One table and one folder of images (cars_annos.mat, car_ims), or two (cars_train, cars_test, the devkit)."""
    # Copies of the halves bring the whole's table, too, whose images they call otherwise.
    has_halves = (folder / "cars_train").is_dir() and not (folder / "car_ims").is_dir()
    if (folder / WHOLE).is_file() and not has_halves:
        find_root(folder, ("car_ims",), (), "car_ims.tgz")
        tables = {WHOLE: (".", None)}
    else:
        marks = [mark for name, (images, _) in HALVES.items() for mark in (name, images)]
        comes_in = "car_devkit.tgz, cars_train.tgz, cars_test.tgz and cars_test_annos_withlabels.mat, or car_ims.tgz "
        find_root(folder, tuple(marks), (), f"{comes_in}and {WHOLE}")
        tables = HALVES
    names = _class_names(folder / (WHOLE if WHOLE in tables else NAMES_OF_HALVES))
    rows = []
    for name, (below, half) in tables.items():
        table, images = folder / name, _images_folder(folder, below)
        for number, entry in enumerate(_entries(table), start=1):
            if half is None:
                path, is_of_test_half = str(entry["relative_im_path"]), read_whole(table, number, entry["test"]) == 1
            else:
                path, is_of_test_half = str(entry["fname"]), half == TEST
            path = path_of_image(folder, images, path, table)
            label = read_whole(table, number, entry["class"])
            is_test = is_of_test_half if protocol == "oml" else label > TRAIN_CLASSES
            box = None
            if with_boxes:
                box = tuple(read_whole(table, number, entry[side]) for side in BOX)
            split = TEST if is_test else TRAIN
            rows.append(Row(str(label), path, split, is_test, is_test, box=box, label_name=names.get(label)))
    return rows


def _class_names(file: Path) -> dict[int, str]:
    """What the classes are called, from 1 on; nothing where there is no such file, or no names in it."""
    if not file.is_file():
        return {}
    names = np.atleast_1d(_read(file).get("class_names", ()))
    return {number: str(name) for number, name in enumerate(names.tolist(), start=1)}


def _images_folder(folder: Path, name: str) -> Path:
    """The folder `name`, or the one of the same name within it, which copies of this data set have."""
    within = folder / name / name
    if name != "." and within.is_dir():
        return within
    return folder / name


def _read(file: Path) -> dict[str, Any]:
    """The arrays of a MATLAB file by name. Raises InputError where it cannot be read."""
    io = needed("scipy.io", f"{str(file)!r}", "convert")
    try:
        return io.loadmat(str(file), squeeze_me=True)
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise InputError(f"cannot read {str(file)!r}: {first_line(error)}") from None


def _entries(file: Path) -> list[dict[str, Any]]:
    """The entries of a table, {field: value} each. Raises InputError where they are not those of this data set."""
    content = _read(file)
    try:
        table = np.atleast_1d(content["annotations"])
        fields = table.dtype.names or ()
        entries = [dict(zip(fields, entry, strict=True)) for entry in table.tolist() if fields]
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise InputError(f"cannot read {str(file)!r}: {first_line(error)}") from None
    wanted = {"class", *BOX} | ({"relative_im_path", "test"} if file.name == WHOLE else {"fname"})
    lacking = sorted(wanted - set(fields))
    if lacking:
        raise InputError(
            f"{str(file)!r} has no field {lacking[0]!r}; it is another version of the table"
            f"{' (cars_test_annos.mat has no labels)' if 'class' in lacking else ''}"
        )
    return entries
