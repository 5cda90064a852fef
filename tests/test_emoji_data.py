"""The committed data/emoji.zip: complete, honest between its halves, decodable, and the same in both list formats."""

import csv
import io
import zipfile
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest

ZIP = Path(__file__).resolve().parents[1] / "data" / "emoji.zip"
VENDORS = {"noto", "noto-v1", "twemoji", "openmoji", "fluent-emoji-flat", "emojione", "fxemoji"}
HALVES = {"Ebay_train.txt": ("train", 4119, 698), "Ebay_test.txt": ("validation", 4142, 699)}


@pytest.fixture(scope="module")
def archive():
    with zipfile.ZipFile(ZIP) as opened:
        yield opened


@pytest.fixture(scope="module")
def lists(archive):
    """{list name: rows of (image_id, class_id, super_class_id, path)}, numbers as int."""
    rows = {}
    for name in HALVES:
        header, *lines = archive.read(name).decode().splitlines()
        assert header == "image_id class_id super_class_id path"
        rows[name] = [(*map(int, line.split(" ")[:3]), *line.split(" ")[3:]) for line in lines]
    return rows


def read_table(archive, name):
    return list(csv.DictReader(io.StringIO(archive.read(name).decode())))


def test_size_and_crc(archive):
    assert ZIP.stat().st_size <= 16e6
    assert archive.testzip() is None


def test_names_are_safe_and_portable(archive):
    names = archive.namelist()
    assert len(names) == len({name.lower() for name in names})
    for name in names:
        path = PurePosixPath(name)
        assert not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\: ")
        assert len(name) < 100 and name.isascii()


def test_counts_of_the_halves(lists):
    for name, (_, images, labels) in HALVES.items():
        assert (len(lists[name]), len({row[1] for row in lists[name]})) == (images, labels)


def test_ids_run_on_from_train_to_test_as_in_sop(lists):
    rows = lists["Ebay_train.txt"] + lists["Ebay_test.txt"]
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert list(dict.fromkeys(row[1] for row in rows)) == list(range(1, 1398))
    assert {row[2] for row in rows} == set(range(1, 96))


def test_halves_share_no_emoji(archive, lists):
    train, test = ({row[1] for row in lists[name]} for name in HALVES)
    assert not train & test
    codes = {int(row["class_id"]): row["code_points"] for row in read_table(archive, "labels.csv")}
    assert set(codes) == train | test
    assert len(set(codes.values())) == len(codes)


def test_lists_name_every_image_once(archive, lists):
    listed = [row[3] for rows in lists.values() for row in rows]
    assert sorted(listed) == sorted(name for name in archive.namelist() if name.endswith(".webp"))


def test_a_label_is_one_folder_with_four_or_more_vendors(lists):
    folders, vendors = defaultdict(set), defaultdict(list)
    for _, label, _, path in lists["Ebay_train.txt"] + lists["Ebay_test.txt"]:
        folder, file = path.rsplit("/", 1)
        folders[label].add(folder)
        vendors[label].append(file.removesuffix(".webp"))
    assert all(len(set(found)) == len(found) >= 4 and set(found) <= VENDORS for found in vendors.values())
    assert all(len(found) == 1 for found in folders.values())
    assert len(set.union(*folders.values())) == len(folders)


def test_csv_agrees_with_the_lists(archive, lists):
    rows = read_table(archive, "emoji.csv")
    assert list(rows[0]) == ["label", "path", "split", "is_query", "is_gallery", "category"]
    category = {int(row["class_id"]): row["category"] for row in read_table(archive, "labels.csv")}
    expected = []
    for name, (split, _, _) in HALVES.items():
        use = "" if split == "train" else "True"
        expected += [(str(label), path, split, use, use, category[label]) for _, label, _, path in lists[name]]
    assert [tuple(row.values()) for row in rows] == expected
    pairs = {(row[2], category[row[1]]) for rows in lists.values() for row in rows}
    assert len(pairs) == len({number for number, _ in pairs}) == len({text for _, text in pairs})


def test_no_vendor_has_one_file_under_two_labels(archive):
    images = [name for name in archive.namelist() if name.endswith(".webp")]
    files = Counter((PurePosixPath(name).name, archive.read(name)) for name in images)
    assert max(files.values()) == 1


def test_images_decode_to_96_pixels_and_are_not_blank(archive, lists):
    paths = [row[3] for rows in lists.values() for row in rows][::41]
    assert len(paths) > 200
    for path in paths:
        image = cv2.imdecode(np.frombuffer(archive.read(path), np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert image.min() < 250, path


def test_every_image_is_webp_of_96_pixels(archive):
    for name in archive.namelist():
        if name.endswith(".webp"):  # lossy WebP: the key frame's 14-bit width and height stand at byte 26
            head = archive.read(name)[:30]
            assert (head[:4], head[8:16]) == (b"RIFF", b"WEBPVP8 ")
            assert np.frombuffer(head[26:30], "<u2").tolist() == [96, 96], name


def test_licences_are_inside(archive):
    notice = archive.read("LICENSES.txt").decode()
    assert all(f"\n{vendor}.webp, " in notice for vendor in VENDORS)
    for licence in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"):
        assert licence in notice and len(archive.read(f"licences/{licence}.txt")) > 900
