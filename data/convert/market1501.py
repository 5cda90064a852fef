"""Market-1501: folders of images whose names say who is on them, by which of six cameras."""

import re
from pathlib import Path

from core.errors import InputError
from data.convert._registry import CONVERTERS, TEST, TRAIN, Archive, Counts, DataSet, Row, find_root

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
NAME = re.compile(r"(-1|\d{4})_c([1-6])")
JUNK = "-1"
# Zheng et al., Scalable Person Re-identification, ICCV 2015. Boxes that are junk (-1) count neither as right nor as
# wrong and are left out; what is nobody (0000) stays in the gallery, as one label more. Its server is gone; the MD5 is
# the one on record in open-reid.
FACTS = DataSet(
    title="Market-1501",
    page="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    archives=(Archive("Market-1501-v15.09.15.zip", "Market-1501-v15.09.15", md5="65005ab7d12ec1c44de4eeafe813e68a"),),
    protocols={"standard": Counts((12_936, 751), (19_281, 751), queries=3_368, gallery=15_913)},
)


@CONVERTERS.register("market1501", facts=FACTS)
def market1501(folder: Path, protocol: str, with_boxes: bool) -> list[Row]:
    """A sequence is a person before one camera: what a query does not find, since only other cameras count."""
    archive = FACTS.archives[0]
    root = find_root(folder, FOLDERS, (archive.holds,), archive.name)
    rows = []
    for name in FOLDERS:
        for path in sorted((root / name).iterdir()):
            # Macs and Windows leave files of their own (._NAME.jpg, Thumbs.db).
            if path.suffix.lower() != ".jpg" or path.name.startswith("."):
                continue
            match = NAME.match(path.name)
            if match is None:
                raise InputError(f"{str(path)!r} is not called as this data set's images, PERSON_cCAMERA...jpg")
            if match[1] == JUNK:
                continue
            person = str(int(match[1]))
            split = TRAIN if name == FOLDERS[0] else TEST
            sequence = f"{person}_c{match[2]}"
            path = path.relative_to(folder).as_posix()
            rows.append(Row(person, path, split, name == "query", name == FOLDERS[2], sequence=sequence))
    return rows
