"""Images are looked at before the work begins; what goes wrong later loses nothing that was done."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import as_line, read_metrics, run, train_flags
from test_images import pil

import reader
from care.subject import open_subject
from core.errors import InputError
from data import soundness
from data.fixes import Finding, write_fixes
from data.image.decode import decode_whole
from reader import open_inputs, open_list, refuse_broken_images

pytestmark = pytest.mark.usefixtures("tiny")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


@pytest.fixture(scope="module")
def files():
    """A picture with some detail in each format, {format: bytes}."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return {form: pil(Image.fromarray(noise), form) for form in FORMATS}


def decodes(path):
    try:
        decode_whole(np.fromfile(path, np.uint8), path)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("form", FORMATS)
def test_a_quick_look_finds_what_is_cut_off(files, tmp_path, form):
    """What it takes for sound can be decoded; whatever cannot, it does not take for sound."""
    path = tmp_path / "x"
    path.write_bytes(files[form])
    assert soundness.is_sound(path) or form in ("BMP", "TIFF")
    for size in (0, 1, 10, 30, len(files[form]) // 3, len(files[form]) // 2, len(files[form]) - 3):
        path.write_bytes(files[form][:size])
        assert not soundness.is_sound(path) or decodes(path), size


def listed(folder, lines):
    (folder / "l.csv").write_text("label,path,split,x_1,y_1,x_2,y_2\n" + "".join(f"{line}\n" for line in lines))
    return open_list("l.csv", folder, "train")


def test_the_first_broken_images_are_told_by_file_and_line(files, tmp_path):
    (tmp_path / "whole.jpg").write_bytes(files["JPEG"])
    (tmp_path / "cut.jpg").write_bytes(files["JPEG"][:900])
    (tmp_path / "tail.jpg").write_bytes(files["JPEG"] + b"what a camera wrote behind it")
    lines = ["1,whole.jpg,train,,,,", "1,cut.jpg,train,,,,", "2,tail.jpg,train,0,0,8,8", "2,whole.jpg,train,90,0,95,9"]
    images = listed(tmp_path, [*lines, "3,whole.jpg,train,70,50,200,300"])
    (cut, why), (outside, reason) = soundness.first_broken(images, 9)
    assert (cut, outside) == (1, 3)
    assert "cut.jpg' is not an image that OpenCV can decode" in why and "lies outside of image" in reason
    assert len(soundness.first_broken(images, 1)) == 1
    with pytest.raises(InputError) as caught:
        refuse_broken_images([images])
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()[:-1]]
    assert places == [f"{tmp_path / 'l.csv'}:3", f"{tmp_path / 'l.csv'}:5"]


@pytest.mark.parametrize("form", ["csv", "elsewhere", "folder", "files"])
def test_a_way_out_is_told_and_leads_out(files, tmp_path, monkeypatch, form):
    """The very commands: the doctor finds what cannot be read, and what it writes makes a list that can be."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(files["JPEG"])
    (tmp_path / "photos" / "a" / "cut.jpg").write_bytes(files["JPEG"][:500])
    if form == "files":
        with pytest.raises(InputError, match=r"cut.jpg' is not [^\n]*\nleave such out, or give --on_bad_image=skip"):
            refuse_broken_images([open_inputs(["photos/a/cut.jpg"], None)])
        return
    path, data_dir = "photos", None
    if form != "folder":
        path = "photos/list.csv" if form == "csv" else "list.csv"
        data_dir = "photos" if form == "elsewhere" else None
        rows = [
            f"{image.parent.name},{image.parent.name}/{image.name},train" for image in Path("photos").rglob("*.jpg")
        ]
        Path(path).write_text("\n".join(["label,path,split", *rows, ""]))
    with pytest.raises(InputError) as caught:
        refuse_broken_images([open_list(path, data_dir, "train")])
    examine, mend = re.findall(r"python reader.py (doctor|fix) ([^,\n(]*)", str(caught.value).splitlines()[-1])
    assert (examine[0], mend[0]) == ("doctor", "fix")
    words = examine[1].split()
    subject = open_subject(words[0], data_dir if f"--data_dir={data_dir}" in words else None)
    row = next(row for row in subject.rows if row.path == "a/cut.jpg")
    finding = Finding(row.number, row.path, "a", "unreadable", "it is cut", "remove", 1.0)
    Path(words[1].removeprefix("--output_dir=")).mkdir(parents=True)
    write_fixes(Path(words[1].removeprefix("--output_dir="), "fixes.csv"), [finding])
    reader.main(["fix", *mend[1].split()])
    clean = next(word for word in mend[1].split() if word.startswith("--output=")).removeprefix("--output=")
    assert "cut" not in Path(clean).read_text()
    refuse_broken_images([open_list(clean, data_dir or "photos", "train")])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name, split", [("4_0", "train"), ("11_0", "test")])
def test_a_training_begins_with_images_that_can_be_read(sop_copy, tmp_path, name, split, skip):
    """--on_bad_image=skip is about train images; those to test on are the same for everyone."""
    (picture,) = sop_copy.glob(f"*/{name}.jpg")
    picture.write_bytes(picture.read_bytes()[:300])
    line = train_flags(sop_copy, tmp_path / "run", on_bad_image="skip" if skip else "stop", total_iter_num=1)
    if skip and split == "train":
        run("train_elem", line)
        return
    with pytest.raises(InputError, match=rf"Ebay_{split}.txt:\d+: .*{name}.jpg' is not an image"):
        run("train_elem", line)
    assert not (tmp_path / "run").exists()


def test_what_a_test_meets_does_not_lose_the_steps(sop_copy, tmp_path, monkeypatch):
    """An image that is damaged while a run trains: its steps are saved, and it goes on once the image is whole."""
    (picture,) = sop_copy.glob("*/11_0.jpg")
    whole = picture.read_bytes()
    line = train_flags(sop_copy, tmp_path / "run", test_iter_step=2, save_iter_step=100)
    monkeypatch.setattr("reader.refuse_broken_images", lambda lists: picture.write_bytes(whole[:300]))
    with pytest.raises(InputError, match=r"11_0.jpg' is not an image[^\n]*\nstep 2 is saved; go on by --checkpoint="):
        run("train_elem", line)
    monkeypatch.undo()
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 2
    picture.write_bytes(whole)
    run("train_elem", [f"--checkpoint={tmp_path / 'run'}"])
    run("train_elem", train_flags(sop_copy, tmp_path / "undisturbed", test_iter_step=2, save_iter_step=100))
    found, right = (read_metrics(tmp_path / name) for name in ("run", "undisturbed"))
    tests = [[(one["step"], one["recall@1"]) for one in lines if one["group"] == "test"] for lines in (found, right)]
    assert tests[0] == tests[1] and [step for step, _ in tests[0]] == [2, 3]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_train_image_that_breaks_later_does_not_lose_the_steps(sop_copy, tmp_path, monkeypatch, num_workers):
    """Within an epoch of ten steps it is drawn once; its place in it follows from the seed."""
    picture = sop_copy / "disc_final" / "4_0.jpg"
    whole = picture.read_bytes()
    flags = {"num_workers": num_workers, "total_iter_num": 10, "save_iter_step": 100, "train_batch_size": 3}
    monkeypatch.setattr("reader.refuse_broken_images", lambda lists: picture.write_bytes(b""))
    with pytest.raises(InputError, match=r"4_0.jpg' is not an image") as caught:
        run("train_elem", train_flags(sop_copy, tmp_path / "run", **flags))
    monkeypatch.undo()
    step = int(str(caught.value).partition("\nstep ")[2].split()[0])
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == step
    picture.write_bytes(whole)
    run("train_elem", [f"--checkpoint={tmp_path / 'run'}"])
    run("train_elem", train_flags(sop_copy, tmp_path / "undisturbed", **flags))
    ends = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("run", "undisturbed")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("flag", ["is_query", "is_gallery"])
@pytest.mark.parametrize("script", ["train_elem", "eval", "check"])
def test_a_list_without_a_query_or_a_gallery_is_a_fault(sop_copy, tmp_path, capsys, script, flag):
    """In the list itself, by its name: nobody asks, or nothing can be found."""
    lines = (sop_copy / "shapes.csv").read_text().splitlines()
    place = lines[0].split(",").index(flag)
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[place] = "False" if row[place] else ""
    (sop_copy / "none.csv").write_text("\n".join([lines[0], *map(",".join, rows)]))
    lack = {"is_query": "nobody asks", "is_gallery": "nothing can be found"}[flag]
    fault = f"{sop_copy / 'none.csv'}: no row of the split validation has {flag} True, so {lack}"
    if script == "check":
        with pytest.raises(SystemExit) as end:
            reader.main(["check", "none.csv", f"--data_dir={sop_copy}"])
        assert end.value.code == 1 and f"{fault}\n1 fault\n" in capsys.readouterr().out
        return
    lists = {"train_list": "none.csv", "test_list": "none.csv"}
    if script == "train_elem":
        line = train_flags(sop_copy, tmp_path / "run", **lists)
    else:
        line = as_line({"data_dir": sop_copy, "test_list": "none.csv", "model": "Tiny", "output_dir": tmp_path / "run"})
    with pytest.raises(InputError) as caught:
        run(script, line)
    assert str(caught.value) == fault and not (tmp_path / "run").exists()
    # What has no roles to play may well be embedded.
    assert len(open_inputs([str(sop_copy / "none.csv")], sop_copy)) == 60


def test_labels_that_are_held_out_need_no_test_list(sop_copy, tmp_path):
    (sop_copy / "Ebay_test.txt").unlink()
    run("train_elem", train_flags(sop_copy, tmp_path / "run", val_classes=3))
    rows = [line for line in (sop_copy / "shapes.csv").read_text().splitlines() if "validation" not in line]
    (sop_copy / "train.csv").write_text("\n".join(rows))
    run("train_elem", train_flags(sop_copy, tmp_path / "csv", val_classes=3, train_list="train.csv"))
