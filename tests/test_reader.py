"""Lists in both formats and every mistake in them, splits and codes, the embedded archive, what infer.py opens."""

import dataclasses
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from data import embedded
from data.embedded import embedded_data
from data.hold_out import hold_out
from data.records import COLUMNS, Records
from data.samplers import InOrder
from embeddings.collection import open_collection
from reader import open_inputs, open_list, open_lists, open_test, open_training

HEADER = "label,path,split,is_query,is_gallery,category,sequence,x_1,x_2,y_1,y_2"


@pytest.fixture
def write_list(tmp_path):
    """Write lines to a list beside empty files a.jpg … c.jpg; returns the list's path."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()

    def write(name, *lines, encoding="utf-8"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding=encoding)
        return tmp_path / name

    return write


def refusal(*arguments, opener=open_list):
    with pytest.raises(InputError) as caught:
        opener(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("split, labels", [("train", range(1, 11)), ("test", range(11, 21))])
def test_sop_and_csv_hold_the_same(sop_tree, split, labels):
    sop = open_list(f"Ebay_{split}.txt", sop_tree, split)
    table = open_list(sop_tree / "shapes.csv", sop_tree, split)
    assert len(sop) == len(table) == 30
    assert sop.labels.tolist() == np.repeat(labels, 3).tolist() and sop.labels.dtype == np.int64
    assert sop.paths.tolist() == table.paths.tolist() and sop.labels.tolist() == table.labels.tolist()
    assert sop.paths[0] == str(sop_tree / ["square_final/1_0.jpg", "cross_final/11_0.jpg"][split == "test"])
    assert len(set(zip(sop.categories, table.categories))) == len(set(table.categories)) == 4
    assert sop.is_query.all() and sop.is_gallery.all() and table.is_query.all() and table.is_gallery.all()
    assert sop.boxes is None and sop.sequences is None and sop.source == str(sop_tree / f"Ebay_{split}.txt")


def test_sop_lists_may_lack_the_header_and_paths_may_hold_blanks(write_list):
    file = write_list("list.txt", "1 7 2 a.jpg", "", "2 -3 9 b c.jpg")
    (file.parent / "b c.jpg").touch()
    images = open_list("list.txt", file.parent, "train")
    assert images.labels.tolist() == [7, -3] and images.paths[1] == str(file.parent / "b c.jpg")
    assert images.categories.tolist() == ["2", "9"]


def test_csv_columns(write_list):
    file = write_list(
        "list.csv",
        HEADER,
        "5,a.jpg,validation,True,0,cats,s1,1,30,2,40",
        "5,b.jpg,validation,false,1.0,dogs,s2,,,,",
        "6,c.jpg,train,,,cats,,nan,nan,nan,nan",
    )
    test = open_list(file, file.parent, "test")
    assert test.labels.tolist() == [5, 5]
    assert test.is_query.tolist() == [True, False] and test.is_gallery.tolist() == [False, True]
    assert test.categories.tolist() == ["cats", "dogs"] and test.sequences.tolist() == ["s1", "s2"]
    assert test.boxes[0].tolist() == [1, 2, 30, 40] and np.isnan(test.boxes[1]).all()
    train = open_list(file, file.parent, "train")
    assert train.paths.tolist() == [str(file.parent / "c.jpg")] and np.isnan(train.boxes).all()
    second = test.take([1])
    assert len(second) == 1 and second.categories.tolist() == ["dogs"] and second.source == str(file)


@pytest.mark.parametrize(
    "name, lines",
    [
        ("list.csv", ("label,path,split", "1,a.jpg,train")),
        ("list.txt", ("image_id class_id super_class_id path", "1 1 1 a.jpg")),
    ],
)
def test_a_byte_order_mark_is_no_content(write_list, name, lines):
    file = write_list(name, *lines, encoding="utf-8-sig")
    assert open_list(file, file.parent, "train").labels.tolist() == [1]


@pytest.mark.parametrize(
    "name, lines, place, message",
    [
        ("l.txt", ["1 1 1 a.jpg", "2 1 a.jpg"], 2, "expected 4 columns .*class_id.*, got 3: '2 1 a.jpg'"),
        ("l.txt", ["1 1 1 a.jpg", "1 1 1 z.jpg", "1 1 1 y.jpg"], 2, "no image '.*z.jpg'"),
        ("l.txt", ["image_id class_id super_class_id path"], None, "no image in it"),
        ("l.csv", ["lable,path,split", "1,a.jpg,train"], 1, "no column 'label' in .*. Rename 'lable' if it is meant."),
        ("l.csv", [], 1, "no column 'label'"),
        ("l.csv", ["label,path,split,x_1,x_2", "1,a.jpg,train,0,5"], 1, "a box needs .*; there is no y_1, y_2"),
        ("l.csv", ["label,path,split", "1,a.jpg,train", "1,b.jpg,test"], 3, "split is 'test', expected train or"),
        ("l.csv", ["label,path,split", "1,a.jpg,validation"], None, "no row in it has the split train"),
        ("l.csv", ["label,path,split", "1,a.jpg,train", "", " ,b.jpg,train"], 4, "label is empty"),
        ("l.csv", ["label,path,split", "1,z.jpg,train"], 2, "no image '.*z.jpg'"),
        ("l.csv", ["split,label,path", "train,1,a.jpg", "train,1"], 3, "path"),
        ("l.csv", ["split,path,label", "train,a.jpg,1", "train,a.jpg"], 3, "label"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,5,4,0,9"], 2, r"box \[5.0, 0.0, 4.0, 9.0\] is not left < right"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,5,,0,9"], 2, "is not left < right"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,-1,4,0,9"], 2, "is not left < right"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,0,inf,0,9"], 2, "box"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,five,6,0,9"], 2, "box .* is not four numbers"),
        ("l.csv", ["label,path,split", "1,a,b.jpg,train"], 2, r"expected 3 columns \(label, path, split\), got 4"),
        ("l.csv", ["label,path,split,label", "1,a.jpg,train,2"], 1, "the column 'label' comes twice"),
        ("l.csv", ["label,path,split", f"1,{'a' * 200000},train"], 2, "not csv: field larger than field limit"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,0,1,0,1"], 2, r"box \[0.0, 0.0, 1.0, 1.0\] seems to be in fractions"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,0.1,.9,0.25,0.5"], 2, "seems to be in fractions of the image"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,3.2,3.8,0,9"], 2, "holds no whole pixel"),
        ("l.csv", [HEADER, "1,a.jpg,train,,,c,s,1_0,20,0,9"], 2, "box .* is not four numbers"),
        (
            "l.csv",
            ["label,path,split,Category", "1,a.jpg,train,c"],
            1,
            "'Category' is not known; if 'category' is meant",
        ),
        ("l.csv", ["label,path,split,sequences", "1,a.jpg,train,c"], 1, "'sequences' is not known; if 'sequence' is"),
        ("l.csv", ["label,path,split,x1", "1,a.jpg,train,1"], 1, "the column 'x1' is not known; if 'x_1' is meant"),
        ("l.csv", ["label,path,split,query", "1,a.jpg,train,1"], 1, "'query' is not known; if 'is_query' is meant"),
        ("l.csv", ["label,path,split,is_galery", "1,a.jpg,train,1"], 1, "'is_galery' is not known; if 'is_gallery'"),
        ("l.txt", ["1 1 1"], 1, "expected 4 columns .*, got 3: '1 1 1'"),
        ("l.txt", ["1 1 1 a.jpg\0"], 1, "no image '.*a.jpg"),
        ("l.txt", ["1 1 1 ../a.jpg"], 1, "path '../a.jpg' leads out of data_dir '.*'; give a folder that holds it"),
        ("l.txt", ["1 1 1 b/../../a.jpg"], 1, "path 'b/../../a.jpg' leads out of data_dir"),
        ("l.txt", ["1 1 1 /etc/passwd"], 1, "path '/etc/passwd' leads out of data_dir"),
        ("l.csv", ["label,path,split", "1,../../etc/passwd,train"], 2, "path '../../etc/passwd' leads out of data_dir"),
        ("l.txt", ["1 1 1 ."], 1, "no image"),
        ("l.txt", [f"1 1 1 {'a' * 5000}.jpg"], 1, "no image"),
    ],
)
def test_mistakes_are_named_with_their_line(write_list, name, lines, place, message):
    file = write_list(name, *lines)
    found = refusal(file, file.parent, "train")
    assert found.startswith(f"{file}:{place}: " if place else f"{file}: ")
    assert re.search(message, found)


def test_all_faults_are_told_at_once_and_each_once(write_list):
    lines = ["label,path,split", ",a.jpg,train", "1,z.jpg,train", "1,a.jpg,train", "2,y.jpg,validation", "3,b.jpg,x"]
    file = write_list("l.csv", *lines)
    found = refusal([(file, "train"), (file, "test")], file.parent, opener=open_lists).splitlines()
    assert [line.removeprefix(f"{file}:")[0] for line in found] == ["2", "3", "6", "5"]
    assert found[0] == f"{file}:2: label is empty"
    assert found[3] == f"{file}:5: no image '{file.parent / 'y.jpg'}'"
    many = write_list("many.txt", *(f"{i} 1 1 {i}.jpg" for i in range(60)), "61 1 a.jpg")
    found = refusal(many, many.parent, "train").splitlines()
    assert len(found) == 21 and found[-1] == "and 41 faults more; python reader.py check shows all"


def test_lists_that_are_not_there_are_told_together(sop_tree):
    found = refusal([("a.txt", "train"), ("b.txt", "test")], sop_tree, opener=open_lists)
    assert [line[:15] for line in found.splitlines()] == ["no list 'a.txt'", "no list 'b.txt'"]


def test_paths_may_be_absolute_or_go_up_within_the_folder(write_list):
    file = write_list("l.txt")
    (file.parent / "x").mkdir()
    file.write_text(f"1 1 1 {file.parent / 'a.jpg'}\n2 1 1 x/../b.jpg\n3 1 1 ./c.jpg\n4 1 1 ..c.jpg\n")
    (file.parent / "..c.jpg").touch()
    assert len(open_list(file, file.parent, "train")) == 4
    assert "leads out" in refusal(file, file.parent / "x", "train")
    file.write_text(f"1 1 1 {file.parent / 'a.jpg'}\n")
    assert len(open_list(file, file.parent.anchor, "train")) == 1  # the root holds whatever there is


def test_a_row_knows_its_line(write_list):
    file = write_list("l.txt", "image_id class_id super_class_id path", "", "1 1 1 a.jpg", "2 1 1 b.jpg")
    assert open_list(file, file.parent, "train").lines.tolist() == [3, 4]


def test_query_flags_are_booleans(write_list):
    file = write_list("l.csv", "label,path,split,is_query", "1,a.jpg,validation,1", "1,b.jpg,validation,maybe")
    assert refusal(file, file.parent, "test") == f"{file}:3: is_query is 'maybe', expected True or False"


def test_a_list_that_is_no_text_is_refused(tmp_path):
    for name in ("l.txt", "l.csv"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0 \x00")
        assert str(tmp_path / name) in refusal(name, tmp_path, "train")


def test_where_lists_and_folders_are_looked_for(sop_tree, tmp_path, monkeypatch):
    assert "download_sop.sh" in refusal("Ebay_train.txt", tmp_path / "nothing", "train")
    assert "no list 'Ebay_tain.txt'" in refusal("Ebay_tain.txt", sop_tree, "train")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("1 1 1 disc_final/4_0.jpg\n")
    assert open_list("mine.txt", sop_tree, "train").paths.tolist() == [str(sop_tree / "disc_final/4_0.jpg")]
    image = sop_tree / "disc_final" / "4_1.jpg"
    (tmp_path / "mine.txt").write_text(f"1 1 1 {image}\n")
    assert open_list("mine.txt", sop_tree, "train").paths.tolist() == [str(image)]


def test_a_part_of_the_embedded_set_is_there_when_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "shapes")
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as archive:
        archive.writestr("fruit/banana/a.jpg", "")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "elsewhere", "shapes.csv", "."):
        embedded.unpack_what_is_named(path)
        assert not (tmp_path / "shapes").exists()
    assert len(open_inputs(["shapes/fruit"], None)) == 1
    shutil.rmtree(tmp_path / "shapes")
    assert open_collection("shapes/fruit", (), index="i").root == str(tmp_path / "shapes" / "fruit")


def test_the_embedded_set_unpacks_once_and_again_when_the_archive_changes(sop_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "shapes")
    assert "shapes.zip" in refusal("Ebay_train.txt", None, "train")

    def pack(lines):
        with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as archive:
            archive.writestr("Ebay_train.txt", "1 1 1 a.jpg\n" * lines)
            archive.writestr("a.jpg", "")

    pack(3)
    assert len(open_list("Ebay_train.txt", None, "train")) == 3
    (tmp_path / "shapes" / "mark").touch()
    assert embedded_data() == tmp_path / "shapes" and (tmp_path / "shapes" / "mark").exists()
    pack(5)
    assert len(open_list("Ebay_train.txt", None, "train")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shapes", "shapes.zip"]


def test_hold_out_splits_by_label_and_repeats(sop_tree):
    images = open_list("Ebay_train.txt", sop_tree, "train")
    train, held = hold_out(images, 3, seed=1)
    assert len(set(held.labels)) == 3 and not set(train.labels) & set(held.labels)
    assert sorted([*train.paths, *held.paths]) == sorted(images.paths)
    again = hold_out(images, 3, seed=1)[1]
    assert again.paths.tolist() == held.paths.tolist()
    assert {tuple(set(hold_out(images, 3, seed)[1].labels)) for seed in range(5)} != {tuple(set(held.labels))}
    for count in (10, 11, -1):
        assert "1 to 9" in refusal(images, count, opener=hold_out)


def test_what_a_training_opens(sop_copy):
    data = open_training(data_dir=sop_copy)
    assert len(data.train) == len(data.test) == 30 and data.tested_on == "the test list Ebay_test.txt"
    held = open_training(data_dir=sop_copy, val_classes=3, test_list="nowhere.txt")
    assert (len(held.train), len(held.test)) == (21, 9) and held.tested_on == "3 train labels held out"
    test = open_test(data_dir=sop_copy, test_list="Ebay_test.txt")
    assert test.paths.tolist() == data.test.paths.tolist()
    for records, skips in ((data.train, True), (data.test, False)):
        path = Path(records.paths[0])
        whole = path.read_bytes()
        path.write_bytes(b"")
        with pytest.raises(InputError, match=f"^{records.location(0)}: .* is not an image"):
            open_training(data_dir=sop_copy)
        if skips:
            open_training(data_dir=sop_copy, on_bad_image="skip")
        else:
            with pytest.raises(InputError, match="is not an image"):
                open_training(data_dir=sop_copy, on_bad_image="skip")
        path.write_bytes(whole)


def test_columns_are_all_that_is_not_about_the_whole(sop_tree):
    fields = {field.name for field in dataclasses.fields(Records)}
    assert fields - set(COLUMNS) == {"source", "notes", "names"} and set(COLUMNS) <= fields
    records = open_list("Ebay_train.txt", sop_tree, "train")
    assert records.vocabulary is records.vocabulary
    taken = records.take([0, 1, 2])
    assert len(taken.vocabulary) == 1 and len(records.vocabulary) == 10


def few(labels, is_query=None, is_gallery=None):
    everyone = np.ones(len(labels), dtype=bool)
    flags = [everyone if flag is None else np.array(flag, dtype=bool) for flag in (is_query, is_gallery)]
    return Records("few.txt", np.array([f"{i}.jpg" for i in range(len(labels))]), np.array(labels), *flags)


@pytest.mark.parametrize("labels", [[30, 7, 7, 100, 30], ["b", "a", "a", "ä", "b"]])
def test_codes_are_dense_and_ascending(labels):
    vocabulary = few(labels).vocabulary
    assert vocabulary.codes.tolist() == [1, 0, 0, 2, 1] and vocabulary.codes.dtype == np.int64 and len(vocabulary) == 3
    assert vocabulary.labels.tolist() == sorted(set(labels)) and vocabulary.counts.tolist() == [2, 2, 1]


def test_what_infer_opens(sop_tree, tmp_path):
    listed = open_inputs([str(sop_tree / "Ebay_test.txt")], sop_tree)
    assert len(listed) == 30 and listed.labels.min() == 11
    found = open_inputs([str(sop_tree)], None)
    assert len(found) == 60 and found.labels is None and found.paths.tolist() == sorted(found.paths)
    one = str(sop_tree / "disc_final" / "4_0.jpg")
    mixed = open_inputs([one, str(sop_tree / "cross_final")], None)
    assert mixed.paths[0] == one and len(mixed) == 1 + 15
    assert "no file or folder" in refusal([one, str(tmp_path / "gone.jpg")], None, opener=open_inputs)
    assert f"no image in {tmp_path}" in refusal([str(tmp_path)], None, opener=open_inputs)


def test_in_order_covers_the_list_and_ends_with_a_short_batch():
    batches = InOrder(7, 3)
    assert len(batches) == 3
    assert [[draw.index for draw in batch] for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
