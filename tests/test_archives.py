"""Tar and parquet files as lists that are read in place: trained on, tested on, embedded; what is refused of them."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import as_line, read_json, read_metrics, run, train_flags

from core.errors import InputError
from core.items import content_of, file_of, member_item, member_of
from data.check import check_images
from data.fixes import read_raw_list
from data.formats.archives import archives_of
from data.formats.tars import INDEX_END
from data.image.files import byte_count, read_bytes, read_image
from data.lists import open_list, open_lists
from data.members import RowGroups
from data.notes import list_notes
from data.soundness import first_broken, is_sound
from retrieval.index.contents import states_of

pytestmark = pytest.mark.usefixtures("tiny")


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else content.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def listed(sop_tree, split):
    """[(path, label, category)] of the tree's pictures of a split."""
    records = open_list("shapes.csv", sop_tree, split)
    return list(zip(records.paths.tolist(), records.labels.tolist(), records.categories.tolist(), strict=True))


@pytest.fixture
def shards(sop_tree, tmp_path):
    """A folder of tars: two of train pictures, one of test pictures, each picture with its label and category."""
    folder = tmp_path / "shards"
    for name, split, rows in (
        ("train-0", "train", slice(0, 15)),
        ("train-1", "train", slice(15, 30)),
        ("test-0", "test", slice(0, 30)),
    ):
        members = []
        for number, (path, label, category) in enumerate(listed(sop_tree, split)[rows]):
            members.append((f"{number:04d}.jpg", Path(path).read_bytes()))
            if number % 2:
                members.append((f"{number:04d}.json", json.dumps({"label": label, "category": category})))
            else:
                members += [
                    (f"{number:04d}.cls", str(label)),
                    (f"{number:04d}.json", json.dumps({"category": category})),
                ]
        write_tar(folder / f"{name}.tar", members)
    return folder


def write_parquet(path, columns, group=7):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def assert_like_the_tree(records, sop_tree, split):
    """The same pictures, labels and categories in the same order."""
    expected = listed(sop_tree, split)
    assert records.labels.tolist() == [label for _, label, _ in expected]
    for index, (path, _, category) in enumerate(expected):
        assert np.array_equal(read_bytes(records.paths[index]), np.fromfile(path, np.uint8))
        if records.categories is not None:
            assert records.categories[index] == category
    assert len(np.unique(records.files, axis=0)) == len(records)


@pytest.mark.parametrize("pattern", ["train-*.tar", "train-{0..1}.tar", "train-{0,1}.tar", "train-[01].tar"])
def test_tars_are_a_list(shards, sop_tree, pattern):
    records = open_list(pattern, shards, "train")
    assert_like_the_tree(records, sop_tree, "train")
    member = member_of(records.paths[0])
    assert (member.archive, member.name) == (str(shards / "train-0.tar"), "0000.jpg")
    assert records.name_of(0).startswith("image '") and records.modalities == {"image"}
    # The index is kept beside each tar, and read from there.
    index = shards / f"train-0.tar{INDEX_END}"
    assert index.is_file()
    before = index.stat().st_mtime_ns
    assert np.array_equal(open_list(pattern, shards, "train").paths, records.paths)
    assert index.stat().st_mtime_ns == before


def test_a_folder_of_tars_and_one_tar(shards, sop_tree, tmp_path):
    (shards / "test-0.tar").rename(tmp_path / "test.tar")
    assert_like_the_tree(open_list(str(shards), tmp_path, "train"), sop_tree, "train")
    test = open_list("test.tar", tmp_path, "test")
    assert_like_the_tree(test, sop_tree, "test")
    assert test.is_query.all() and test.is_gallery.all()
    # A folder of images that has a tar among them is a folder of images.
    (shards / "cat.jpg").write_bytes(b"")
    assert archives_of(shards) == []


def test_an_index_that_is_outdated_is_made_anew(shards):
    before = open_list("train-0.tar", shards, "train")
    write_tar(shards / "train-0.tar", [("x.jpg", read_bytes(before.paths[3]).tobytes()), ("x.cls", "7")])
    after = open_list("train-0.tar", shards, "train")
    assert after.labels.tolist() == [7] and np.array_equal(read_image(after.paths[0]).shape[2:], (3,))


def test_an_index_where_the_folder_is_not_to_be_written_to(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (shards / f"train-0.tar{INDEX_END}").mkdir()  # so nothing can be written there, by root either
    records = open_list("train-0.tar", shards, "train")
    kept = list((tmp_path / "cache").rglob(f"*{INDEX_END}"))
    assert len(records) == 15 and len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    open_list("train-0.tar", shards, "train")
    assert kept[0].stat().st_mtime_ns == before


def test_labels_texts_and_entries_as_webdataset_has_them(tmp_path):
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    box = {"x_1": 1, "y_1": 1, "x_2": 5, "y_2": 6}
    members = [
        ("a/1.left.png", picture),
        ("a/1.right.png", picture),
        ("a/1.json", json.dumps({"label": "cat", "split": "train", "other": [1], **box})),
        ("a/1.txt", "a cat"),
        ("a/2.png", picture),
        ("a/2.cls", "dog"),
        ("a/2.json", json.dumps({"split": "validation", "is_gallery": True, "is_query": False})),
        ("../3.png", picture),
        ("../3.json", json.dumps({"split": "validation", "label": 7, "sequence": "s", "is_query": True})),
        ("readme.md", "nothing"),
    ]
    write_tar(tmp_path / "a.tar", members)
    train, test = open_lists([("a.tar", "train"), ("a.tar", "test")], tmp_path)
    assert train.labels.tolist() == ["cat", "cat"] and train.texts.tolist() == ["a cat", "a cat"]
    assert train.boxes.tolist() == [[1, 1, 5, 6]] * 2 and np.isnan(test.boxes).all()
    assert (test.labels.tolist(), test.is_query.tolist()) == (["dog", "7"], [False, True])
    assert (test.is_gallery.tolist(), test.sequences.tolist()) == ([True, True], ["", "s"])
    assert member_of(test.paths[1]).name == "3.png"  # a name that leads out of the tar is a name alone
    assert any(note.endswith("of a row that has a path, the text is not used") for note in train.notes)
    # Where nothing else tells a label, the text is it.
    write_tar(tmp_path / "b.tar", [("1.png", picture), ("1.txt", "a cat\n"), ("2.png", picture), ("2.txt", "a dog")])
    assert open_list("b.tar", tmp_path, "train").labels.tolist() == ["a cat", "a dog"]


@pytest.mark.parametrize("kind", ["struct", "binary", "paths"])
def test_parquet_files_are_a_list(sop_tree, tmp_path, kind):
    rows = listed(sop_tree, "train")
    paths, labels, categories = (list(column) for column in zip(*rows, strict=True))
    columns = {"label": labels, "category": categories}
    contents = [Path(path).read_bytes() for path in paths]
    names = [os.path.relpath(path, sop_tree) for path in paths]
    if kind == "struct":
        columns["image"] = [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
    elif kind == "binary":
        columns |= {"jpg": contents, "__key__": names}
    else:
        columns["path"] = names
    for part in range(2):
        part_columns = {name: column[15 * part : 15 * part + 15] for name, column in columns.items()}
        write_parquet(tmp_path / f"part-{part}.parquet", part_columns)
    records = open_list(str(tmp_path / "part-*.parquet"), sop_tree, "train")
    assert_like_the_tree(records, sop_tree, "train")
    if kind == "paths":
        assert np.array_equal(records.paths, open_list("shapes.csv", sop_tree, "train").paths)
        # Of one file its rows are what lines are of a text.
        assert open_list(str(tmp_path / "part-0.parquet"), sop_tree, "train").location(3).endswith("part-0.parquet:4")
    else:
        assert member_of(records.paths[0]).name == names[0] and is_sound(records.paths[0])


def test_groups_of_rows_are_kept_as_far_as_there_is_room(tmp_path):
    contents = [bytes([number]) * 100 for number in range(20)]
    file = str(write_parquet(tmp_path / "a.parquet", {"image": contents, "label": list(range(20))}, group=4))
    groups = RowGroups(limit=1000)
    for row in np.random.default_rng(0).permutation(20):
        assert groups.read(file, int(row)) == contents[row]
        assert groups._bytes == sum(len(image) for kept in groups._kept.values() for image in kept) <= 1000
    with pytest.raises(InputError, match="has no row 21; it is not what it was"):
        groups.read(file, 20)


def test_archives_train_test_and_embed_as_files_do(shards, sop_tree, tmp_path):
    """To the bit: the same draws, the same figures, and embeddings whose paths say where they are."""
    runs = {}
    for name, flags in {
        "files": {"train_list": "shapes.csv", "test_list": "shapes.csv", "data_dir": sop_tree},
        "tars": {"train_list": "train-{0..1}.tar", "test_list": "test-*.tar", "data_dir": shards},
    }.items():
        flags = {"model_save_dir": tmp_path / name, "num_workers": 2, "test_metrics": "map@r", **flags}
        run("train_elem", train_flags(flags["data_dir"], tmp_path / name, **flags))
        runs[name] = read_metrics(tmp_path / name)
    losses = [[line["loss"] for line in runs[name] if "loss" in line] for name in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    assert [line for line in runs["files"] if "recall@1" in line] == [
        line for line in runs["tars"] if "recall@1" in line
    ]
    figures = {}
    for name, place in (
        ("files", {"data_dir": sop_tree, "test_list": "shapes.csv"}),
        ("tars", {"data_dir": shards, "test_list": "test-0.tar"}),
    ):
        line = {
            "pretrained_model": tmp_path / "files",
            "use_gpu": False,
            "num_workers": 0,
            "output_dir": tmp_path / name,
            **place,
        }
        run("eval", as_line({**line, "report": tmp_path / f"{name}.html"}))
        figures[name] = read_json(tmp_path / name / "result.json")["metrics"]
    assert figures["files"] == figures["tars"]
    flags = as_line(
        {"pretrained_model": tmp_path / "files", "use_gpu": False, "num_workers": 0, "output": tmp_path / "a.npz"}
    )
    run("infer", [*flags, "--input", str(shards / "test-0.tar")])
    kept = np.load(tmp_path / "a.npz")
    assert len(kept["embeddings"]) == 30 and member_of(str(kept["paths"][0])).name == "0000.jpg"


def test_looks_at_members(shards, sop_tree, capsys):
    train, test = open_lists([("train-*.tar", "train"), ("test-0.tar", "test")], shards)
    assert not first_broken(train, 5) and list_notes(train, test) == []
    assert check_images({"train": train}, read_bytes) == []
    assert "unreadable: 0" in capsys.readouterr().out
    path = train.paths[0]
    assert byte_count(path) == len(read_bytes(path)) == member_of(path).size
    assert file_of(path) == str(shards / "train-0.tar") and content_of(path) == path
    assert states_of([path]) == {} and states_of([file_of(path)])  # an index does not read a tar to watch an image


# What is refused.


@pytest.mark.parametrize(
    "members, sentence",
    [
        ([("1.jpg", b"x")], "a.tar: 1.jpg: no label: KEY.cls, KEY.json with an entry label, or KEY.txt tells it"),
        ([("1.jpg", b"x"), ("1.json", "{")], "a.tar: 1.json: Expecting"),
        ([("1.jpg", b"x"), ("1.json", '{"label": [1, 2]}')], r"1.json: label is \[1, 2\], expected a text or a number"),
        ([("1.jpg", b"x"), ("1.json", '{"label": NaN}')], "1.json: label is nan, expected a text or a number"),
        ([("1.jpg", b"x"), ("1.cls", b"\xff")], "a.tar: 1.cls: 'utf-8' codec"),
        ([("1.txt", "x")], "no image in it"),
        ([("1.jpg", b"x"), ("1.cls", "1"), ("1.json", '{"split": "val"}')], "1.jpg: split is 'val', expected train or"),
        ([("1.jpg", b"x"), ("1.cls", "1"), ("1.json", '{"x_1": 1}')], "a box needs x_1, y_1, x_2, y_2; there is no"),
        (
            [("1.jpg", b"x"), ("1.cls", "1"), ("1.json", '{"split": "validation"}')],
            "no row in it has the split train",
        ),
    ],
)
def test_tars_that_are_wrong(tmp_path, members, sentence):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=sentence):
        open_list("a.tar", tmp_path, "train")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", ["2.jpg", "2.JSON"])
def test_a_tar_with_links(tmp_path, kind, name):
    """An image that is none is not left out in silence; links to what is no image are nobody's concern."""
    write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.cls", "1")])
    link = tarfile.TarInfo("readme.md")
    link.type, link.linkname = kind, "1.jpg"
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(link)
    assert len(open_list("a.tar", tmp_path, "train")) == 1
    link.name = name
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(link)
    with pytest.raises(InputError, match=rf"a.tar: {name} is a link to 1.jpg, and has no bytes of its own; write the"):
        open_list("a.tar", tmp_path, "train")


@pytest.mark.parametrize("left", [0, 100, 700, 20 * 1536 - 1000, 20 * 1536 - 200, 20 * 1536, 20 * 1536 + 100])
def test_a_tar_that_was_cut_short(tmp_path, left):
    file = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", bytes(700)) for n in range(20)])
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(
        InputError, match="a.tar' cannot be read: (it has no end: cut short|unexpected end|truncated|empty)"
    ):
        open_list("a.tar", tmp_path, "train")


def test_a_tar_that_is_compressed_or_no_tar(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.cls", "1")])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(InputError, match="b.tar.gz' is compressed, so that nothing in it is read in place; make it"):
        open_list("b.tar.gz", tmp_path, "train")
    file.write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match="a.tar' cannot be read: "):
        open_list("a.tar", tmp_path, "train")


def test_nothing_of_that_name(tmp_path):
    with pytest.raises(InputError, match=r"no list 'train-\*.tar', neither in .* nor from here"):
        open_list("train-*.tar", tmp_path, "train")


def test_a_tar_that_changed_under_way(shards):
    records = open_list("train-0.tar", shards, "train")
    last = records.paths[-1]
    (shards / "train-0.tar").write_bytes((shards / "train-0.tar").read_bytes()[: member_of(last).start + 10])
    with pytest.raises(
        InputError, match="train-0.tar' ends within '0014.jpg'; it is not what it was when it was listed"
    ):
        read_bytes(last)
    [(row, sentence)] = first_broken(records, 5)
    assert row == 14 and "ends within" in sentence
    os.unlink(shards / "train-0.tar")
    with pytest.raises(InputError, match="cannot read image .*No such file"):
        read_bytes(last)


@pytest.mark.parametrize(
    "columns, sentence",
    [
        (
            {"label": [1], "number": [2]},
            "has no column of images' bytes .*, paths .path. or texts .text.; it has label .int64., nu",
        ),
        ({"image": [1], "label": [2]}, "it has image .int64., label .int64."),
        ({"image": [b"x"], "label": [[2]]}, "x.parquet': column label is list.*, expected texts or numbers"),
        ({"image": [b"x"], "label": [float("nan")]}, "x.parquet: row 1: no label"),
        ({"path": ["x.jpg"]}, "x.parquet: row 1: no label: one of the columns label, cls, class, fine_label tells it"),
        ({"path": ["no.jpg"], "label": [1]}, "x.parquet:1: no image '.*no.jpg'"),
        ({"path": ["../../x.jpg"], "label": [1]}, "leads out of data_dir"),
    ],
)
def test_parquet_files_that_are_wrong(tmp_path, columns, sentence):
    write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(InputError, match=sentence):
        open_list("x.parquet", tmp_path, "train")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="x.parquet' cannot be read: "):
        open_list("x.parquet", tmp_path, "train")


def test_a_row_without_an_image_is_counted_from_one_on(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"image": [b"x", None, b"x"], "label": [1, 1, 2]})
    records = open_list("x.parquet", tmp_path, "train")
    with pytest.raises(InputError, match="row 2 has no bytes in its column 'image'"):
        read_bytes(records.paths[1])


def test_names_within_archives_stay_names():
    for name in ("a.jpg", "b/../../c.jpg", "/etc/passwd", "x.tar/y.jpg", "", "./a b#bytes=1+2"):
        item = member_item("/data/a.tar", name, 512, 7)
        member = member_of(item)
        assert (member.archive, member.start, member.size) == ("/data/a.tar", 512, 7)
        assert os.path.abspath(item) == item
    assert member_of(member_item("/d/a.parquet", "x.parquet/y", 3, None))[::2] == ("/d/a.parquet", 3)
    for path in ("photos/a.tar", "text:a.tar/x#bytes=1+2", "a.jpg#bytes=1+2", "a.wav#t=1"):
        assert member_of(path) is None


def test_a_shard_that_is_named_and_is_not_there(shards):
    with pytest.raises(InputError, match="train-2.tar' cannot be read: No such file"):
        open_list("train-{0..2}.tar", shards, "train")


def test_archives_are_not_mended_row_by_row(shards):
    with pytest.raises(InputError, match="train-0.tar' cannot be mended row by row; a csv, an SOP list or a folder"):
        read_raw_list("train-0.tar", shards)
