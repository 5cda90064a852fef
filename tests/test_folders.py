"""Folders: which files in them are images, a folder per label as a list, and the list that is written of one."""

import cv2
import shlex
import os
import re
import shutil

import numpy as np
import pytest
from runs import as_line, read_json, run, tiny_backbone, train_flags

import reader
from core.errors import InputError
from data.formats.folders import find_files, label_folders
from reader import open_list, open_lists

CPU = {"use_gpu": False, "num_workers": 0}


@pytest.fixture
def photos(sop_tree, tmp_path):
    """A folder with a folder per label: photos/label_N/M.jpg."""
    for picture in sorted(sop_tree.glob("*/*.jpg")):
        label, sample = picture.stem.split("_")
        place = tmp_path / "photos" / f"label_{label}" / f"{sample}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    return tmp_path / "photos"


def test_whatever_is_an_image_is_found_and_the_rest_is_told(photos, sop_tree):
    before, note = find_files(photos)
    assert len(before) == 60 and note is None and before == sorted(before)
    picture = (photos / "label_1" / "0.jpg").read_bytes()
    more = ["a.jfif", "b.JPE", "no_suffix", "cats.album/c.jpg", "e.gif"]
    for name in more:
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(picture)
    for name in ("notes.txt", ".hidden.jpg", "._a.jpg", ".DS_Store", ".cache/x.jpg", "d.pdf"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("%PDF-1.4 or so, more than sixteen bytes")
    (photos / "damaged.png").write_bytes(b"")
    os.symlink(sop_tree / "disc_final", photos / "linked")
    os.symlink(photos, photos / "linked_to_itself")
    os.symlink(photos / "nothing", photos / "dead.jpg")
    found, note = find_files(photos)
    linked = [f"linked/{path.name}" for path in (sop_tree / "disc_final").iterdir()]
    assert set(found) - set(before) == {str(photos / name) for name in [*more, "damaged.png", *linked]}
    assert note.startswith(f"left out of {str(photos)!r}: ")
    for part in (
        "1 linked folder that was searched already (linked_to_itself)",
        "4 hidden files or folders (",
        "2 files that are no JPEG, PNG, WebP, BMP, TIFF or GIF (",
        "1 link that leads nowhere (dead.jpg)",
    ):
        assert part in note


def test_photographs_that_nothing_reads_are_told_by_kind(photos):
    """Phones and cameras write such: how many, of which kind, and that they can be had."""
    heic = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(99)
    for name in ("a.heic", "b.HEIF", "label_1/c.heic"):
        (photos / name).write_bytes(heic)
    # A raw file begins as a TIFF does, and is none that can be decoded.
    (photos / "d.dng").write_bytes(b"II*\x00\x08\x00\x00\x00" + bytes(99))
    (photos / "notes.txt").write_text("text")
    # What is called so and is a JPEG is one.
    shutil.copy(photos / "label_1" / "0.jpg", photos / "e.heic")
    found, note = find_files(photos)
    assert len(found) == 61 and str(photos / "e.heic") in found
    for part in (
        "3 HEIC files (",
        ", for one); ",
        "1 camera raw file (d.dng)",
        "1 file that is no JPEG, PNG, WebP, BMP, TIFF or GIF (notes.txt)",
    ):
        assert part in note
    assert note.endswith("; photographs of these kinds are taken once they are saved as JPEG")


def test_a_list_names_its_folder_once(photos):
    (photos / "notes.txt").write_text("text")
    (note,) = open_list(photos, None, "train").notes
    assert note.startswith(f"left out of {str(photos)!r}: ") and note.count(str(photos)) == 1


def test_infer_says_what_it_leaves_out(photos, tmp_path, finished_run):
    (photos / "notes.txt").write_text("text")
    line = as_line({"pretrained_model": finished_run, "input": photos, "output": tmp_path / "x.npz", **CPU})
    printed = run("infer", line)
    assert "note: left out of" in printed and "(notes.txt)" in printed and "60 images, 8 numbers each" in printed


def test_infer_takes_a_folder_as_an_index_does(photos, tmp_path, finished_run):
    """Of a folder what cannot be read is left out and counted, unless the line says otherwise; of a list nothing is."""
    (photos / "label_1" / "0.jpg").write_bytes(b"")
    flags = {"pretrained_model": finished_run, "input": photos, "output": tmp_path / "x.npz", **CPU}
    printed = run("infer", as_line(flags))
    assert "1 of 60 images could not be read and is left out" in printed and "59 images, 8 numbers each" in printed
    for refused in ({"on_bad_image": "stop"}, {"input": photos / "label_1" / "0.jpg"}):
        with pytest.raises(InputError, match="0.jpg' is not an image"):
            run("infer", as_line({**flags, "output": tmp_path / "y.npz", **refused}))


def test_a_mistyped_command_or_flag_has_a_near_match(photos, capsys):
    for words, sentence in (
        (
            ["mak", str(photos)],
            "the command is 'mak'; it is one of check, make, convert, pack, doctor, fix. Did you mean",
        ),
        (["make", str(photos), "--outptu=x.csv"], "unknown flag '--outptu=x.csv'. Did you mean 'output'?"),
    ):
        with pytest.raises(SystemExit) as end:
            reader.main(words)
        assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_predictions_are_embeddings_by_path(photos, tmp_path, finished_run, record_property):
    """A folder's images as {path: vector} in json, the numbers of the array that another run writes."""
    line = as_line({"pretrained_model": finished_run, "input": photos, **CPU})
    for name in ("predictions.json", "x.npz"):
        run("infer", [*line, f"--output={tmp_path / name}"])
    table = read_json(tmp_path / "predictions.json")
    arrays = np.load(tmp_path / "x.npz")
    assert len(table) == 60 and list(table) == arrays["paths"].tolist()
    assert all((photos / path).is_file() for path in table)
    np.testing.assert_array_equal(np.array(list(table.values()), np.float32), arrays["embeddings"])
    record_property("vectors equal to the bit", len(table))


def test_a_folder_per_label_is_a_list(photos, tmp_path):
    images = open_list(photos, None, "train")
    assert len(images) == 60 and len(images.vocabulary) == 20 and images.vocabulary.counts.tolist() == [3] * 20
    row = images.paths.tolist().index(str(photos / "label_7" / "2.jpg"))
    assert images.labels[row] == "label_7" and images.categories is None and images.source == str(photos)
    with tiny_backbone():
        lists = {"train_list": photos, "data_dir": None, "val_classes": 5}
        run("train_elem", train_flags(None, tmp_path / "run", **lists))
        result = read_json(tmp_path / "run" / "result.json")
        assert result["images"] == 15 and result["tested_on"] == "5 train labels held out"
        go_on = [f"--checkpoint={tmp_path / 'run'}", "--total_iter_num=4", "--allow_changed=total_iter_num"]
        shutil.copy(photos / "label_1" / "0.jpg", photos / "label_1" / "new.jpg")
        with pytest.raises(InputError, match="is not what it was when the run began"):
            run("train_elem", go_on)
        (photos / "label_1" / "new.jpg").unlink()
        run("train_elem", go_on)
        run("train_elem", train_flags(None, tmp_path / "both", train_list=photos, test_list=photos))
        flags = {"pretrained_model": tmp_path / "run", "test_list": photos, "output_dir": tmp_path / "out", **CPU}
        assert "60 images, 60 queries" in run("eval", as_line(flags))


def test_a_list_beside_which_another_is_left_open_is_not_tested_on_the_embedded_set(photos):
    with pytest.raises(InputError, match="the train list is .*photos.*, but the test list is the embedded set's"):
        open_lists([(str(photos), "train"), ("Ebay_test.txt", "test")], None)


def test_images_outside_of_label_folders_are_told(photos):
    shutil.copy(photos / "label_1" / "0.jpg", photos / "stray.jpg")
    columns, note = label_folders(photos)
    assert len(columns["paths"]) == 60 and note == "1 image (stray.jpg) lies in no folder of a label and is left out"
    images = open_list(photos, None, "train")
    assert images.notes == (f"{photos}: {note}",)
    flat = photos / "label_1"
    with pytest.raises(InputError, match="no image lies in a folder of its label below .*3 images there lie elsewhere"):
        open_list(flat, None, "train")


def test_folders_of_labels_without_an_image_are_told(photos, tmp_path, capsys):
    (photos / "nothing").mkdir()
    (photos / ".hidden").mkdir()
    (photos / "linked").symlink_to(photos / "label_1")
    _, note = label_folders(photos)
    assert "1 folder of a label (nothing) holds no image and is left out" in note
    (photos / "empty").mkdir()
    assert "; 2 folders of a label (empty, for one) hold" in make(capsys, photos, f"--output={tmp_path / 'l.csv'}")
    (photos / "label_1" / "deep").mkdir()
    assert "3 folders" not in label_folders(photos)[1]


def test_a_folder_that_is_not_there_is_not_called_empty(photos):
    with pytest.raises(InputError, match="there is no folder .*fotos"):
        label_folders(photos.with_name("fotos"))
    with pytest.raises(InputError, match="there is no folder .*0.jpg"):
        label_folders(photos / "label_1" / "0.jpg")


def test_categories_above_labels(photos, tmp_path):
    os.renames(photos / "label_1", photos / "round" / "label_1")
    os.renames(photos / "label_2", photos / "square" / "label_2")
    columns, note = label_folders(photos, level=2)
    assert set(columns["labels"]) == {"round/label_1", "square/label_2"} and "54 images" in note
    assert set(columns["categories"]) == {"round", "square"}


def make(capsys, *words):
    reader.main(["make", *map(str, words)])
    return capsys.readouterr().out


@pytest.mark.parametrize("where", ["inside", "beside", "elsewhere"])
def test_a_list_is_made_of_a_folder_and_used_as_it_says(photos, tmp_path, capsys, where):
    folder = {"inside": photos, "beside": tmp_path, "elsewhere": tmp_path / "lists"}[where]
    printed = make(capsys, photos, f"--output={folder / 'list.csv'}", "--test_share=0.25")
    assert "45 images to train with, 15 to test with" in printed
    command = printed.splitlines()[-1].split()
    assert command[:2] == ["python", "train_elem.py"] and any("--data_dir" in word for word in command) == (
        where == "elsewhere"
    )
    flags = {**dict(word.removeprefix("--").split("=") for word in command[2:]), **CPU, "model": "Tiny"}
    flags |= {"image_shape": "3,32,32", "train_batch_size": 6, "total_iter_num": 2, "model_save_dir": tmp_path / "run"}
    with tiny_backbone():
        run("train_elem", as_line(flags))
    config = read_json(tmp_path / "run" / "config.json")
    assert config["lists"]["train"]["labels"] == 15 and config["lists"]["test"]["labels"] == 5


def test_made_lists_repeat_and_are_not_overwritten(photos, tmp_path, capsys):
    words = [photos, f"--output={tmp_path / 'list.csv'}", "--test_share=0.5"]
    make(capsys, *words)
    before = (tmp_path / "list.csv").read_text()
    with pytest.raises(SystemExit) as end:
        make(capsys, *words)
    assert end.value.code == 2 and "is there already; give --overwrite to replace it" in capsys.readouterr().err
    make(capsys, *words, "--overwrite")
    assert (tmp_path / "list.csv").read_text() == before
    make(capsys, *words, "--overwrite", "--seed=1")
    assert (tmp_path / "list.csv").read_text() != before
    make(capsys, *words[:2], "--overwrite")
    assert "validation" not in (tmp_path / "list.csv").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--test_share=1"], "'1' is not a share from 0 to below 1"),
        (["--test_share=0.01"], "test_share=0.01 of 20 labels is 0: nothing is left on one side"),
        (["--label_level=0"], "'0' is not an integer above 0"),
        (["--label_level=3"], "no image lies in a folder of its label"),
        (["--output=x.txt"], "cannot write 'x.txt': a list of this kind has to end in .csv"),
        (["--output=label_1/x/list.csv"], "cannot write"),
    ],
)
def test_lists_that_cannot_be_made(photos, monkeypatch, capsys, words, message):
    monkeypatch.chdir(photos)
    (photos / "label_1" / "x").write_text("a file where a folder would have to be")
    before = sorted(photos.rglob("*"))
    with pytest.raises(SystemExit) as end:
        make(capsys, photos, *(["--output=list.csv"] if "--output" not in words[0] else []), *words)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert sorted(photos.rglob("*")) == before


def test_one_is_singular(photos, tmp_path, finished_run, capsys):
    """Whatever is printed of one image, one label, one fault: a number 1 goes with no plural."""
    one = tmp_path / "one" / "label"
    one.mkdir(parents=True)
    shutil.copy(photos / "label_1" / "0.jpg", one)
    (one / "notes.txt").write_text("text")
    line = {"pretrained_model": finished_run, **CPU}
    index = str(tmp_path / "index")
    printed = run("search", ["build", str(one.parent), f"--index={index}", *as_line(line)])
    printed += run("infer", as_line({**line, "input": one}))
    shutil.copy(photos / "label_1" / "1.jpg", one)
    printed += run("search", ["sync", str(one.parent), f"--index={index}", "--dry_run=True", "--use_gpu=False"])
    printed += run("search", ["add", index, "--input", str(one / "1.jpg"), "--use_gpu=False", "--num_workers=0"])
    printed += run("search", ["delete", index, "--input", str(one / "1.jpg")])
    printed += run("search", ["find", index, "--input", str(one / "1.jpg"), "--k=9", "--use_gpu=False"])
    (one / "1.jpg").write_bytes(b"")
    printed += run("search", ["sync", str(one.parent), f"--index={index}", "--use_gpu=False", "--num_workers=0"])
    (one / "0.jpg").unlink()
    shutil.copy(photos / "label_1" / "2.jpg", one)
    printed += make(capsys, one.parent, f"--output={tmp_path / 'one.csv'}")
    with pytest.raises(SystemExit):
        reader.main(["check", str(one.parent)])
    printed += capsys.readouterr().out
    assert "1 image" in printed and "1 label" in printed and "1 fault" in printed
    assert not re.findall(r"(?<![\d.,])1 (?!has|is|was|as)[a-z]+s\b", printed)


def test_the_command_of_a_list_with_blanks_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my photos & more"
    for label in ("red shoe", "cup"):
        (folder / label).mkdir(parents=True)
        cv2.imwrite(str(folder / label / "a b.png"), np.zeros((8, 8, 3), np.uint8))
    reader.main(["make", str(folder), f"--output={folder / 'list.csv'}", "--test_share=0.5"])
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["python", "train_elem.py", f"--train_list={folder / 'list.csv'}"]
