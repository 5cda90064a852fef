"""`reader.py convert`: benchmarks of their makers' layouts, tiny and made here, to lists; what is refused of them."""

import csv
import gzip
import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

import reader
from config.script import run_script
from core.errors import InputError
from core.registry import Entry
from data.benchmark_list import write_benchmark_list
from data.convert import CONVERTERS, Counts
from data.lists import open_lists
from data.names import read_names

ROOT = Path(__file__).parents[1]
SIDE = 16


def picture(seed, side=SIDE):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def write(folder, files):
    """{path: content} below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sop_files():
    files = {}
    for name, labels in (("Ebay_train.txt", (1, 2)), ("Ebay_test.txt", (3, 4, 5))):
        lines = ["image_id class_id super_class_id path"]
        for label in labels:
            for number in range(2):
                path = f"bicycle_final/{label}_{number}.JPG"
                lines.append(f"{len(files) + 1} {label} 1 {path}")
                files[f"Stanford_Online_Products/{path}"] = picture(label * 10 + number)
        files[f"Stanford_Online_Products/{name}"] = "\n".join(lines) + "\n"
    return files


def cub_files():
    files, images, labels, halves, boxes = {}, [], [], [], []
    for number, label in enumerate((1, 1, 100, 100, 101, 101, 200, 200), start=1):
        path = f"{label:03d}.Bird_of_{label}/Bird_{number}.jpg"
        images.append(f"{number} {path}")
        labels.append(f"{number} {label}")
        halves.append(f"{number} {number % 2}")
        boxes.append(f"{number} 1.0 2.0 {number}.0 5.5")
        files[f"CUB_200_2011/images/{path}"] = picture(number)
    tables = {"images": images, "image_class_labels": labels, "train_test_split": halves, "bounding_boxes": boxes}
    for name, lines in tables.items():
        files[f"CUB_200_2011/{name}.txt"] = "\n".join(lines) + "\n"
    return files


def inshop_files(side=SIDE, folder="img"):
    rows = [("train", 1, 2), ("train", 2, 1), ("query", 3, 1), ("gallery", 3, 2), ("query", 4, 2), ("gallery", 4, 1)]
    files, lines, boxes = {}, [], []
    for status, item, count in rows:
        for number in range(count):
            name = f"img/WOMEN/Dresses/id_{item:08d}/{number:02d}_{status}.jpg"
            lines.append(f"{name:<60} id_{item:08d}    {status}")
            boxes.append(f"{name:<60} 1 1 2 3 10 11")
            files[f"{folder}{name[3:]}"] = picture(item * 10 + number, side)
    files["Eval/list_eval_partition.txt"] = f"{len(lines)}\nimage_name item_id evaluation_status\n" + "\n".join(lines)
    header = f"{len(boxes)}\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2\n"
    files["Anno/list_bbox_inshop.txt"] = header + "\n".join(boxes) + "\n"
    return files


def inat_files():
    files, lists = {}, {"train": [], "test": []}
    for split, species in (("train", (11, 12)), ("test", (13,))):
        for label in species:
            for number in range(2):
                path = f"train_val2018/Aves/{label}/{number}.jpg"
                lists[split].append(path)
                files[path] = picture(label * 10 + number)
    for split, lines in lists.items():
        files[f"Inat_dataset_splits/Inaturalist_{split}_set1.txt"] = "\n".join(lines) + "\n"
    return files


def market_files():
    names = {
        "bounding_box_train": ("0002_c1s1_000451_03.jpg", "0002_c2s1_000451_01.jpg", "0007_c3s2_000001_00.jpg"),
        "query": ("0001_c1s1_001051_00.jpg",),
        "bounding_box_test": (
            "-1_c1s1_000401_03.jpg",
            "0000_c1s1_000151_01.jpg",
            "0001_c1s1_002301_01.jpg",
            "0001_c2s1_002301_01.jpg",
        ),
    }
    files = {}
    for folder, names_in in names.items():
        for name in names_in:
            files[f"Market-1501-v15.09.15/{folder}/{name}"] = picture(len(files))
    files["Market-1501-v15.09.15/query/Thumbs.db"] = b"no image"
    return files


def cars_folder(folder, whole):
    scipy_io = pytest.importorskip("scipy.io")
    box = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")

    def save(path, rows, fields):
        table = np.zeros((1, len(rows)), [(name, object) for name in fields])
        for column, row in enumerate(rows):
            table[0, column] = row
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy_io.savemat(path, {"annotations": table})

    images = [(1, 0), (98, 1), (99, 0), (99, 1), (196, 0), (196, 1)]
    if whole:
        rows = []
        for number, (label, test) in enumerate(images, start=1):
            rows.append((f"car_ims/{number:06d}.jpg", 1, 2, 9, 10, label, test))
            write(folder, {f"car_ims/{number:06d}.jpg": picture(number)})
        save(folder / "cars_annos.mat", rows, ("relative_im_path", *box, "class", "test"))
        return folder
    for half, name in ((0, "devkit/cars_train_annos.mat"), (1, "cars_test_annos_withlabels.mat")):
        labels = [label for label, test in images if test == half]
        rows = [(1, 2, 9, 10, label, f"{number:05d}.jpg") for number, label in enumerate(labels, start=1)]
        place = ("cars_train", "cars_test")[half]
        write(folder, {f"{place}/{row[-1]}": picture(half * 50 + row[4]) for row in rows})
        save(folder / name, rows, (*box, "class", "fname"))
    return folder


def rows_of(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def converted(name, source, output, **flags):
    """(what was written, its rows), of a set that is not the published one."""
    done = write_benchmark_list(name, source, output, partial=True, **flags)
    return done, rows_of(output)


def assert_opens(file, data_dir=None):
    """Both splits, by the door of the scripts; returns them."""
    train, test = open_lists([(file, "train"), (file, "test")], data_dir or Path(file).parent)
    assert not (train.notes or test.notes)
    return train, test


def test_sop(tmp_path, record_property):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    done, rows = converted("sop", archive, tmp_path / "sop.csv")
    record_property("rows written of SOP", len(rows))
    assert done.counts == Counts((4, 2), (6, 3), 6, 6) and done.root == tmp_path
    first = {"label": "1", "path": "Stanford_Online_Products/bicycle_final/1_0.JPG", "split": "train"}
    assert rows[0] == {**first, "is_query": "", "is_gallery": "", "category": "bicycle_final"}
    assert (rows[-1]["label"], rows[-1]["is_query"], rows[-1]["is_gallery"]) == ("5", "True", "True")
    train, test = assert_opens(tmp_path / "sop.csv")
    assert train.vocabulary.labels.tolist() == [1, 2] and test.vocabulary.labels.tolist() == [3, 4, 5]
    # As the makers' own lists are read.
    pair = open_lists([("Ebay_train.txt", "train"), ("Ebay_test.txt", "test")], tmp_path / "Stanford_Online_Products")
    for ours, theirs in zip((train, test), pair, strict=True):
        assert np.array_equal(ours.paths, theirs.paths) and np.array_equal(ours.labels, theirs.labels)
    # The folder that it unpacks to is as good, and so is the one it lies in; paths may start elsewhere.
    for source in (tmp_path / "Stanford_Online_Products", tmp_path):
        elsewhere = tmp_path / "lists" / "sop.csv"
        done, rows = converted("sop", source, elsewhere, overwrite=True)
        assert done.root == source
        assert_opens(elsewhere, source)


@pytest.mark.parametrize("protocol, train", [("standard", [1, 2, 3, 4]), ("oml", [1, 3, 5, 7])])
def test_cub(tmp_path, protocol, train, record_property):
    archive = tarred(tmp_path / "CUB_200_2011.tgz", cub_files())
    _, rows = converted("cub", archive, tmp_path / "cub.csv", protocol=protocol)
    record_property("of CUB", len(rows))
    numbers = [int(row["path"].rpartition("_")[2].removesuffix(".jpg")) for row in rows if row["split"] == "train"]
    assert numbers == train and len(rows) == 8 and "x_1" not in rows[0]
    assert rows[0]["path"] == "CUB_200_2011/images/001.Bird_of_1/Bird_1.jpg" and rows[0]["label"] == "1"
    _, rows = converted("cub", tmp_path, tmp_path / "boxes.csv", protocol=protocol, boxes=True)
    assert [rows[3][side] for side in ("x_1", "y_1", "x_2", "y_2")] == ["1", "2", "5", "7"]
    assert_opens(tmp_path / "boxes.csv")


def test_names_of_labels_are_kept_where_a_data_set_has_them(tmp_path, capsys):
    """Where pages look for them, beside the list."""
    scipy_io = pytest.importorskip("scipy.io")
    cub = tarred(tmp_path / "CUB_200_2011.tgz", cub_files())
    converted("cub", cub, tmp_path / "cub.csv")
    assert read_names(tmp_path / "cub.csv").label == {str(label): f"Bird of {label}" for label in (1, 100, 101, 200)}
    # A table that somebody has written stays.
    (tmp_path / "own.names.csv").write_text("kind,id,name\n")
    with pytest.raises(InputError, match="own.names.csv' is there already; give --overwrite"):
        converted("cub", tmp_path, tmp_path / "own.csv")
    assert not (tmp_path / "own.csv").exists()

    folder = cars_folder(tmp_path / "cars", False)
    classes = np.array([[f"Car {number}" for number in range(1, 197)]], object)
    scipy_io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": classes})
    converted("cars", folder, tmp_path / "cars.csv")
    assert read_names(tmp_path / "cars.csv").of_label(99) == "Car 99"

    done, _ = converted("sop", zipped(tmp_path / "Stanford_Online_Products.zip", sop_files()), tmp_path / "sop.csv")
    assert done.names is None and not (tmp_path / "sop.names.csv").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_cars(tmp_path, whole):
    folder = cars_folder(tmp_path / "cars", whole)
    done, rows = converted("cars", folder, folder / "cars.csv")
    assert done.counts == Counts((2, 2), (4, 2), 4, 4) and "x_1" not in rows[0]
    done, rows = converted("cars", folder, folder / "oml.csv", protocol="oml", boxes=True)
    assert done.counts == Counts((3, 3), (3, 3), 3, 3)
    assert [rows[0][side] for side in ("x_1", "y_1", "x_2", "y_2")] == ["1", "2", "9", "10"]
    assert_opens(folder / "oml.csv")


def test_cars_tables_without_labels_are_another_version(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = cars_folder(tmp_path / "cars", False)
    table = np.zeros((1, 1), [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "fname")])
    table[0, 0] = (1, 2, 3, 4, "00001.jpg")
    scipy_io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": table})
    with pytest.raises(InputError, match="has no field 'class'; it is another version.*cars_test_annos.mat has no lab"):
        converted("cars", folder, tmp_path / "x.csv")
    (folder / "cars_test_annos_withlabels.mat").write_bytes(b"MATLAB?")
    with pytest.raises(InputError, match="cannot read '.*withlabels.mat'"):
        converted("cars", folder, tmp_path / "x.csv")


def test_inshop(tmp_path):
    folder = write(tmp_path / "InShop", inshop_files())
    done, rows = converted("inshop", folder, folder / "inshop.csv")
    assert done.counts == Counts((3, 2), (6, 2), 3, 3) and done.dropped == 0
    assert rows[0]["path"] == "img/WOMEN/Dresses/id_00000001/00_train.jpg"
    assert (rows[0]["label"], rows[0]["category"]) == ("1", "Dresses")
    _, test = assert_opens(folder / "inshop.csv")
    assert not (test.is_query & test.is_gallery).any()
    done, rows = converted("inshop", folder, folder / "oml.csv", protocol="oml", boxes=True)
    assert (done.dropped, len(rows)) == (1, 8) and [rows[0][side] for side in ("x_1", "y_2")] == ["2", "11"]
    # Its makers' folders: images in Img/img, or in an archive that is unpacked.
    (folder / "Img").mkdir()
    (folder / "img").rename(folder / "Img" / "img")
    images = {}
    for path in sorted((folder / "Img" / "img").rglob("*.jpg")):
        images[path.relative_to(folder / "Img").as_posix()] = path.read_bytes()
    zipped(folder / "Img" / "img.zip", images)
    shutil.rmtree(folder / "Img" / "img")
    _, rows = converted("inshop", folder, folder / "makers.csv")
    assert rows[0]["path"] == "Img/img/WOMEN/Dresses/id_00000001/00_train.jpg"


def test_inshop_in_high_resolution_is_refused(tmp_path):
    folder = write(tmp_path / "renamed", inshop_files(side=300))
    with pytest.raises(InputError, match="has 300 x 300 pixels: that is img_highres; published figures are of img"):
        converted("inshop", folder, tmp_path / "x.csv")
    folder = write(tmp_path / "highres", inshop_files(folder="img_highres"))
    with pytest.raises(InputError, match="has img_highres alone"):
        converted("inshop", folder, tmp_path / "x.csv")


def test_inshop_partition_that_was_cut_short(tmp_path):
    folder = write(tmp_path / "InShop", inshop_files())
    partition = folder / "Eval" / "list_eval_partition.txt"
    partition.write_text("\n".join(partition.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match="txt:1: 9 images are announced, but 8 lines follow; the file was cut short"):
        converted("inshop", folder, tmp_path / "x.csv")


def test_inat2018(tmp_path):
    files = inat_files()
    images = {name: content for name, content in files.items() if name.startswith("train_val2018")}
    folder = write(tmp_path / "inat", {name: files[name] for name in files.keys() - images.keys()})
    tarred(folder / "train_val2018.tar.gz", images)
    done, rows = converted("inat2018", folder, folder / "inat.csv")
    assert done.counts == Counts((4, 2), (2, 1), 2, 2)
    assert (rows[0]["label"], rows[0]["category"], rows[0]["path"]) == ("11", "Aves", "train_val2018/Aves/11/0.jpg")
    assert_opens(folder / "inat.csv")


def test_market1501(tmp_path):
    archive = zipped(tmp_path / "Market-1501-v15.09.15.zip", market_files())
    done, rows = converted("market1501", archive, tmp_path / "market.csv")
    assert done.counts == Counts((3, 2), (4, 2), 1, 3)  # junk is left out, nobody stays
    by_name = {os.path.basename(row["path"]): row for row in rows}
    assert by_name["0001_c1s1_001051_00.jpg"]["sequence"] == by_name["0001_c1s1_002301_01.jpg"]["sequence"] == "1_c1"
    assert by_name["0000_c1s1_000151_01.jpg"]["label"] == "0" and "-1_c1s1_000401_03.jpg" not in by_name
    assert_opens(tmp_path / "market.csv")


# What is refused.


def test_counts_that_are_not_the_published_ones(tmp_path):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    with pytest.raises(
        InputError, match="is not the published Stanford_Online_Products.zip .its SHA256 is .*: cut sho"
    ):
        write_benchmark_list("sop", archive, tmp_path / "sop.csv")
    assert not (tmp_path / "Stanford_Online_Products").exists() and not (tmp_path / "sop.csv").exists()
    converted("sop", archive, tmp_path / "partial.csv")
    # Unpacked already, it has no checksum; the counts have the last word.
    with pytest.raises(
        InputError, match="4 images of 2 labels to train with; Stanford Online Products has 59,551 of 11"
    ):
        write_benchmark_list("sop", tmp_path, tmp_path / "sop.csv")
    facts = CONVERTERS.fact("sop", "facts")
    for counts, sentence in (
        (Counts((4, 2), (6, 3)), None),
        (Counts((4, 2), (6, 3), queries=5), "6 images are queries"),
    ):
        fake = replace(facts, protocols={"standard": counts})
        with mock.patch.dict(CONVERTERS._entries, sop=Entry(CONVERTERS["sop"], {"facts": fake})):
            if sentence is None:
                write_benchmark_list("sop", tmp_path, tmp_path / "right.csv")
                continue
            with pytest.raises(InputError, match=sentence):
                write_benchmark_list("sop", tmp_path, tmp_path / "sop.csv")
    assert not (tmp_path / "sop.csv").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_that_was_cut_short(tmp_path, kind):
    if kind == "zip":
        name, file = "sop", zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    else:
        name, file = "cub", tarred(tmp_path / "CUB_200_2011.tgz", cub_files())
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot unpack '.*cut short, or no such archive; fetch it again"):
        converted(name, file, tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_archive_of_something_else(tmp_path):
    file = zipped(tmp_path / "Stanford_Online_Products.zip", {"other/x.jpg": picture(0)})
    with pytest.raises(InputError, match="holds no 'Stanford_Online_Products', but other; it is another archive"):
        converted("sop", file, tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_images_that_are_missing(tmp_path):
    folder = write(tmp_path / "sop", sop_files())
    (folder / "Stanford_Online_Products" / "bicycle_final" / "2_1.JPG").unlink()
    with pytest.raises(
        InputError, match="1 of 10 images is not in .*bicycle_final/2_1.JPG, for one.: the archive was c"
    ):
        converted("sop", folder, tmp_path / "x.csv")


@pytest.mark.parametrize(
    "name, flags, sentence",
    [
        ("sup", {}, "unknown data set 'sup'; there are: .*Did you mean 'sop'"),
        ("sop", {"protocol": "omi"}, "sop has no protocol 'omi'; there are: standard"),
        ("cub", {"protocol": "omi"}, "cub has no protocol 'omi'; there are: standard, oml. Did you mean 'oml'"),
        ("sop", {"boxes": True}, "Stanford Online Products has no boxes"),
        ("sop", {"output": "x.txt"}, "cannot write 'x.txt': a list of this kind has to end in .csv"),
        ("sop", {"source": "nowhere"}, "no file or folder 'nowhere'; Stanford Online Products is had at https"),
        ("sop", {"source": __file__}, "is no archive: it has to end in .zip"),
        ("market1501", {"download": True}, "no public address of Market-1501-v15.09.15.zip; .* is had at http"),
        ("sop", {}, "no 'Ebay_train.txt' in .*; it comes in Stanford_Online_Products.zip"),
    ],
)
def test_what_is_asked_for_wrongly(tmp_path, name, flags, sentence):
    flags = {"source": tmp_path, "output": tmp_path / "x.csv", **flags}
    with pytest.raises(InputError, match=sentence):
        converted(name, **flags)


def test_an_archive_of_several_by_its_name(tmp_path):
    file = tarred(tmp_path / "cars.tgz", {"car_ims/1.jpg": picture(0)})
    with pytest.raises(
        InputError, match="'cars.tgz' is none of the archives of Cars196: car_ims.tgz, .*give the folder"
    ):
        converted("cars", file, tmp_path / "x.csv")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"Ebay_train.txt": "image_id class_id super_class_id path\n1 2 3\n"}, "Ebay_train.txt:2: 3 words, not 4"),
        ({"Ebay_train.txt": b"\xff\xfe"}, "cannot read '.*Ebay_train.txt'"),
    ],
)
def test_tables_that_are_damaged(tmp_path, change, sentence):
    write(tmp_path, sop_files())
    write(tmp_path / "Stanford_Online_Products", change)
    with pytest.raises(InputError, match=sentence):
        converted("sop", tmp_path, tmp_path / "x.csv")


@pytest.mark.parametrize(
    "name, files, stem",
    [
        ("sop", sop_files(), "Stanford_Online_Products"),
        ("cub", cub_files(), "CUB_200_2011"),
        ("market1501", market_files(), "Market-1501-v15.09.15"),
    ],
)
def test_archives_as_others_hand_them_on(tmp_path, name, files, stem):
    """Packed anew, on a Mac or within another folder, called otherwise: the same list."""
    _, expected = converted(name, write(tmp_path / "plain", files), tmp_path / "plain" / "list.csv")
    macs = {f"__MACOSX/{path}": b"\0" for path in files}
    macs |= {f"{os.path.dirname(path)}/._{os.path.basename(path)}": b"\0" for path in files}
    within = {f"archive/{path}": content for path, content in {**macs, **files}.items()}
    for number, (pack, end, members) in enumerate(
        [
            (zipped, ".zip", {**macs, **files, f"{stem}/.DS_Store": b"", "README": b"hello"}),
            (tarred, ".tgz", {f"__MACOSX/{stem}/x.jpg": b"\0", **within}),
            (zipped, ".ZIP", within),
            (tarred, ".TAR.GZ", files),
            (tarred, ".zip", files),
            (zipped, ".tar", files),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        archive = pack(folder / f"{stem}{end}", members)
        (folder / stem).mkdir()  # an empty folder is in nobody's way
        source = archive if number % 2 else folder
        _, rows = converted(name, source, folder / "list.csv")
        assert rows == expected


def test_cars_with_folders_within_folders_of_their_name(tmp_path):
    folder = cars_folder(tmp_path / "cars", False)
    for name in ("cars_train", "cars_test"):
        (folder / name).rename(folder / "images")
        (folder / name).mkdir()
        (folder / "images").rename(folder / name / name)
    shutil.copy(folder / "devkit" / "cars_train_annos.mat", folder / "cars_annos.mat")  # the whole's, of other images
    done, rows = converted("cars", folder, folder / "cars.csv", download=True)
    assert done.counts == Counts((2, 2), (4, 2), 4, 4) and rows[0]["path"].startswith("cars_train/cars_train/")


def test_a_tar_that_ends_between_two_files(tmp_path):
    """It leaves nothing that the whole one, fetched again, would be kept out by."""
    packed = tarred(tmp_path / "packed.tgz", sop_files())
    file = tmp_path / "Stanford_Online_Products.tar"
    whole = gzip.decompress(packed.read_bytes())
    packed.unlink()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        file.write_bytes(whole[: archive.getmembers()[7].offset])
    with pytest.raises(InputError, match="cannot unpack .*it has no end: cut short"):
        converted("sop", file, tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    file.write_bytes(whole)
    done, _ = converted("sop", file, tmp_path / "x.csv")
    assert done.counts.train == (4, 2)


def test_what_is_there_already_is_not_unpacked_and_said(tmp_path, capsys):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    write(tmp_path, {"Stanford_Online_Products/mine.txt": "mine"})
    for source in (archive, tmp_path):
        with pytest.raises(InputError, match="no 'Ebay_train.txt'"):
            converted("sop", source, tmp_path / "x.csv")
        assert "is there already, so that Stanford_Online_Products.zip is not unpacked" in capsys.readouterr().out
    assert (tmp_path / "Stanford_Online_Products" / "mine.txt").read_text() == "mine"


def test_a_disk_without_room(tmp_path):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    with mock.patch.object(zipfile.ZipFile, "extractall", side_effect=OSError(28, "No space left on device")):
        with pytest.raises(InputError, match="cannot unpack '.*zip' beside itself: No space left on device$"):
            converted("sop", archive, tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("path", ["/etc/1.jpg", "../1.jpg", "a/../../1.jpg"])
def test_images_that_lie_elsewhere(tmp_path, path):
    lists = {"Ebay_train.txt": f"1 1 1 {path}", "Ebay_test.txt": f"1 1 1 {path}"}
    write(tmp_path / "sop", lists)
    write(tmp_path / "cub" / "images", {"x": b""})
    for table in ("image_class_labels", "train_test_split", "bounding_boxes"):
        write(tmp_path / "cub", {f"{table}.txt": "1 1" + " 1 1 1" * (table == "bounding_boxes")})
    write(tmp_path / "cub", {"images.txt": f"1 {path}"})
    for name in ("sop", "cub"):
        with pytest.raises(InputError, match=f"the image '{path}' does not lie below"):
            converted(name, tmp_path / name, tmp_path / "x.csv")


def test_cars_labels_that_are_no_numbers(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = cars_folder(tmp_path / "cars", True)
    table = scipy_io.loadmat(folder / "cars_annos.mat")["annotations"]
    for value in ("Audi", []):
        table[0, 2]["class"] = value
        scipy_io.savemat(folder / "cars_annos.mat", {"annotations": table})
        with pytest.raises(InputError, match="cars_annos.mat:3: .* is not a number"):
            converted("cars", folder, tmp_path / "x.csv")


def test_an_interrupt_leaves_nothing(tmp_path):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    words = ["convert", "sop", str(archive), f"--output={tmp_path / 'x.csv'}", "--partial"]
    stopped = mock.patch.object(zipfile.ZipFile, "extractall", side_effect=KeyboardInterrupt)
    with mock.patch.object(sys, "argv", ["reader.py", *words]), stopped, pytest.raises(SystemExit) as ended:
        run_script(reader.main)
    assert ended.value.code == 130 and [path.name for path in tmp_path.iterdir()] == [archive.name]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves bytes with ranges, and cuts its first answer off."""

    def do_GET(self):
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest = self.server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if not begin:
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


def test_a_download_goes_on_and_is_checked(tmp_path):
    content = tarred(tmp_path / "made.tgz", cub_files()).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.content = content
        threading.Thread(target=server.serve_forever, daemon=True).start()
        facts = CONVERTERS.fact("cub", "facts")
        address = f"http://127.0.0.1:{server.server_port}/CUB_200_2011.tgz"
        # One address that does not answer, one that is cut off first.
        archive = replace(
            facts.archives[0], md5=hashlib.md5(content).hexdigest(), addresses=("http://127.0.0.1:9/", address)
        )
        fake = replace(facts, archives=(archive,), protocols={"standard": Counts((4, 2), (4, 2))})
        with mock.patch.dict(CONVERTERS._entries, cub=Entry(CONVERTERS["cub"], {"facts": fake})):
            done = write_benchmark_list("cub", tmp_path / "new", tmp_path / "new" / "cub.csv", download=True)
        assert done.counts.train == (4, 2)
        fake = replace(fake, archives=(replace(archive, md5="00"),))
        with mock.patch.dict(CONVERTERS._entries, cub=Entry(CONVERTERS["cub"], {"facts": fake})):
            with pytest.raises(
                InputError, match="could not be downloaded from .*its MD5 is [0-9a-f]+, not 00.; run this"
            ):
                write_benchmark_list("cub", tmp_path / "other", tmp_path / "x.csv", download=True)
        server.shutdown()


def test_the_command(tmp_path, capsys):
    archive = zipped(tmp_path / "Stanford_Online_Products.zip", sop_files())
    reader.main(["convert", "sop", str(archive), f"--output={tmp_path / 'sop.csv'}", "--partial"])
    printed = capsys.readouterr().out
    assert "sop.csv, Stanford Online Products, not checked to be the published set: 4 images of 2 labels" in printed
    assert printed.endswith(f"python train_elem.py --train_list={tmp_path}/sop.csv --test_list={tmp_path}/sop.csv\n")
    words = [
        sys.executable,
        str(ROOT / "reader.py"),
        "convert",
        "sop",
        str(archive),
        f"--output={tmp_path / 'sop.csv'}",
    ]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2 and "is there already; give --overwrite" in ended.stderr.splitlines()[-1]
