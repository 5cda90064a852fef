"""Stanford Online Products: Ebay_train.txt and Ebay_test.txt beside a folder for each kind of product."""

from pathlib import Path, PurePosixPath

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
    split_line,
)
from data.formats.sop import SOP_COLUMNS

LISTS = {"Ebay_train.txt": TRAIN, "Ebay_test.txt": TEST}
# Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016. The SHA-256 is the one on record
# in TensorFlow Datasets.
FACTS = DataSet(
    title="Stanford Online Products",
    page="https://cvgl.stanford.edu/projects/lifted_struct/",
    archives=(
        Archive(
            "Stanford_Online_Products.zip",
            "Stanford_Online_Products",
            sha256="b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
            addresses=(
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
            ),
        ),
    ),
    protocols={"standard": Counts((59_551, 11_318), (60_502, 11_316))},
)


@CONVERTERS.register("sop", facts=FACTS)
def sop(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """Its categories are the folders, as in OML's list (`bicycle_final`)."""
    archive = FACTS.archives[0]
    root = find_root(folder, tuple(LISTS), (archive.holds,), archive.name)
    rows = []
    for name, split in LISTS.items():
        for number, line in enumerate(read_lines(root / name), start=1):
            if not line.strip() or line.split() == SOP_COLUMNS:
                continue
            _, label, _, path = split_line(root / name, number, line, 4)
            is_test = split == TEST
            category = PurePosixPath(path).parent.name
            file = path_of_image(folder, root, path, root / name)
            rows.append(Row(label, file, split, is_test, is_test, category))
    return rows
