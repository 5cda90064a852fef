"""CUB-200-2011: tables of ids, a line an image, beside a folder `images`."""

from pathlib import Path, PurePosixPath

from core.errors import InputError
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
    read_lines,
    read_whole,
    split_line,
)

TABLES = {"images.txt": 2, "image_class_labels.txt": 2, "train_test_split.txt": 2, "bounding_boxes.txt": 5}
TRAIN_CLASSES = 100
# Wah et al., 2011. `standard`: the first 100 classes to train with, the others to test with (Song et al., CVPR 2016).
# `oml`: the makers' own halves of each class's images, which are for classification, as OML's list has them.
FACTS = DataSet(
    title="CUB-200-2011",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    archives=(
        Archive(
            "CUB_200_2011.tgz",
            "CUB_200_2011",
            md5="97eceeb196236b17998738112f37df78",
            addresses=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
        ),
    ),
    protocols={"standard": Counts((5_864, 100), (5_924, 100)), "oml": Counts((5_994, 200), (5_794, 200))},
    has_boxes=True,
)


@CONVERTERS.register("cub", facts=FACTS)
def cub(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """Boxes are whole pixels, cut off as in OML's list."""
    archive = FACTS.archives[0]
    root = find_root(folder, (*TABLES, "images"), (archive.holds,), archive.name)
    tables = {name: _read_table(root / name, words) for name, words in TABLES.items()}
    labels, halves, boxes = (tables[name] for name in list(TABLES)[1:])
    rows = []
    for image, (path,) in tables["images.txt"].items():
        for name in TABLES:
            if image not in tables[name]:
                raise InputError(f"{root / name}: no line of the image {image}, which images.txt has")
        label = read_whole(root / "image_class_labels.txt", 0, labels[image][0])
        if protocol == "oml":
            is_test = halves[image][0] == "0"
        else:
            is_test = label > TRAIN_CLASSES
        box = None
        if with_boxes:
            left, top, width, height = (float(word) for word in boxes[image])
            box = (int(left), int(top), int(left + width), int(top + height))
        file = path_of_image(folder, root / "images", path, root / "images.txt")
        # An image's folder is 001.Black_footed_Albatross, as classes.txt has it.
        name = PurePosixPath(path).parts[0].partition(".")[2].replace("_", " ") or None
        split = TEST if is_test else TRAIN
        rows.append(Row(str(label), file, split, is_test, is_test, box=box, label_name=name))
    return rows


def _read_table(file: Path, words: int) -> dict[str, list[str]]:
    """{image's id: the other words of its line}."""
    table = {}
    for number, line in enumerate(read_lines(file), start=1):
        image, *others = split_line(file, number, line, words)
        if words > 2:
            for word in others:
                read_whole(file, number, word)
        table[image] = others
    return table
