"""iNaturalist 2018, in the split of Smooth-AP: two lists of paths beside the folder train_val2018."""

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
)

LISTS = {"Inaturalist_train_set1.txt": TRAIN, "Inaturalist_test_set1.txt": TEST}
# Van Horn et al., CVPR 2018; the split of Brown et al., Smooth-AP, ECCV 2020, whose lists are behind a link on
# https://github.com/Andrew-Brown1/Smooth_AP. The MD5 is the one on record in torchvision.
FACTS = DataSet(
    title="iNaturalist 2018",
    page="https://github.com/visipedia/inat_comp/tree/master/2018",
    archives=(
        Archive(
            "train_val2018.tar.gz",
            "train_val2018",
            md5="b1c6952ce38f31868cc50ea72d066cc3",
            addresses=("https://ml-inat-competition-datasets.s3.amazonaws.com/2018/train_val2018.tar.gz",),
        ),
    ),
    protocols={"standard": Counts((325_846, 5_690), (136_093, 2_452))},
)


@CONVERTERS.register("inat2018", facts=FACTS)
def inat2018(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """A label is the number of a species' folder, a category the folder above it (`Aves`)."""
    comes_in = "Inat_dataset_splits of Smooth-AP (https://github.com/Andrew-Brown1/Smooth_AP)"
    lists = find_root(folder, tuple(LISTS), ("Inat_dataset_splits",), comes_in)
    find_root(folder, ("train_val2018",), (), FACTS.archives[0].name)
    rows = []
    for name, split in LISTS.items():
        for number, line in enumerate(read_lines(lists / name), start=1):
            if not line.strip():
                continue
            parts = PurePosixPath(line.strip()).parts
            if len(parts) < 4 or parts[0] != "train_val2018":
                raise InputError(f"{lists / name}:{number}: {line[:100]!r} is not train_val2018/KIND/SPECIES/IMAGE")
            is_test = split == TEST
            path = path_of_image(folder, folder, line.strip(), lists / name)
            rows.append(Row(parts[-2], path, split, is_test, is_test, parts[-3]))
    return rows
