"""Lists that stay on the disk: packed, opened, trained on, tested on, their order computed; what is refused of them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import as_line, read_json, run, train_flags
from test_archives import shards, write_parquet  # noqa: F401 (a fixture)

import data.pack
import reader
from core.errors import InputError
from data.lists import open_list, open_lists
from data.pack import ListWriter, pack_list
from data.records import COLUMNS, Records
from data.samplers import PKSampler, RankBatches, ShuffledSampler
from data.samplers._permutation import SMALL, Permutation
from data.soundness import first_broken
from data.stored import CARD, INSPECTED, StoredRecords, open_stored

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("tiny")


def write_csv(file, rows):
    with open(file, "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return file


def assert_same(stored, records):
    """Every column by row, by slice, by mask, by integers, and as a whole; and what is made of the labels."""
    assert len(stored) == len(records)
    some = np.random.default_rng(0).integers(0, len(records), 20)
    for name in COLUMNS:
        if name in ("lines", "files"):
            continue
        column, expected = getattr(stored, name), getattr(records, name)
        assert (column is None) == (expected is None), name
        if column is None:
            continue
        for index in (some, slice(1, None, 3), np.arange(len(records)) % 3 == 1, slice(None)):
            found = column[index]
            assert isinstance(found, np.ndarray) and np.array_equal(found, expected[index], equal_nan=name == "boxes")
        assert np.array_equal(column[int(some[0])], expected[some[0]], equal_nan=name == "boxes")
        assert np.array_equal(column[-1], expected[-1], equal_nan=name == "boxes")
    ours, theirs = stored.vocabulary, records.vocabulary
    for name in ("labels", "codes", "counts", "rows", "starts"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.labels.dtype.kind == theirs.labels.dtype.kind
    assert stored.modalities == records.modalities and stored.noun == records.noun
    taken = stored.take([3, 1])
    assert type(taken) is Records and taken.paths.tolist() == records.paths[[3, 1]].tolist()
    assert (
        np.array_equal(np.asarray(stored.labels), records.labels) and stored.labels.tolist() == records.labels.tolist()
    )
    assert list(stored.paths) == records.paths.tolist() == stored.paths.tolist()


@pytest.mark.parametrize("rows", [4, 2**16])
def test_a_csv_of_both_splits(sop_tree, tmp_path, rows):
    """By portions of four rows, or at once, with strings and with integers as labels."""
    done = pack_list("shapes.csv", tmp_path / "a.columns", sop_tree, rows=rows)
    assert done.parts == {"train": (30, 10), "validation": (30, 10)} and done.root == sop_tree
    train, test = open_lists([(str(tmp_path / "a.columns"), split) for split in ("train", "test")], sop_tree)
    expected = open_lists([("shapes.csv", "train"), ("shapes.csv", "test")], sop_tree)
    assert type(train) is StoredRecords and type(test) is Records
    assert_same(train, expected[0])
    assert_same(open_stored(tmp_path / "a.columns", sop_tree, "train"), expected[0])
    for name in ("paths", "labels", "is_query", "is_gallery", "categories"):
        assert np.array_equal(getattr(test, name), getattr(expected[1], name))
    both = open_list(str(tmp_path / "a.columns"), sop_tree, None)
    assert len(both) == 60 and both.labels.tolist() == [*expected[0].labels, *expected[1].labels]


@pytest.mark.parametrize("name", ["Ebay_train.txt", "tars", "parquet"])
def test_other_lists(sop_tree, shards, tmp_path, name):  # noqa: F811
    folder, path = sop_tree, name
    if name == "tars":
        folder, path = shards, "train-*.tar"
    elif name == "parquet":
        source = open_list("shapes.csv", sop_tree, "train")
        columns = {
            "path": [os.path.relpath(path, sop_tree) for path in source.paths.tolist()],
            "label": [f"l{label}" for label in source.labels.tolist()],
            "sequence": [f"s{row % 4}" for row in range(30)],
            **{
                side: [float(value)] * 30
                for side, value in zip(("x_1", "y_1", "x_2", "y_2"), (1, 2, 9, 8), strict=True)
            },
        }
        path = str(write_parquet(tmp_path / "a.parquet", columns))
    done = pack_list(path, tmp_path / "a.columns", folder, rows=7)
    expected = open_list(path, folder, "train")
    assert_same(open_list(str(tmp_path / "a.columns"), done.root, "train"), expected)
    # Of a list without splits all rows may be tested on, too.
    assert len(open_list(str(tmp_path / "a.columns"), done.root, "test")) == 30


def test_texts_and_clips_and_rows_that_are_texts(tmp_path):
    rows = [
        {"label": "1", "path": "a.wav", "text": "", "start_time": "1.5", "split": "train"},
        {"label": "2", "path": "", "text": "ein Täßchen\nTee", "start_time": "", "split": "train"},
        {"label": "x", "path": "b.png", "text": "sagt man", "start_time": "", "split": "validation"},
    ]
    write_csv(tmp_path / "mixed.csv", rows)
    pack_list("mixed.csv", tmp_path / "m.columns", tmp_path)
    train = open_stored(tmp_path / "m.columns", tmp_path, "train")
    assert train.paths.tolist() == [f"{tmp_path}/a.wav#t=1.5", "text:ein Täßchen\nTee"]
    assert train.modalities == {"audio", "text"} and train.texts.tolist() == ["", ""]
    assert train.labels.tolist() == ["1", "2"]  # strings, since the other split has one
    test = open_stored(tmp_path / "m.columns", tmp_path, "test")
    assert test.texts.tolist() == ["sagt man"] and test.labels.tolist() == ["x"]


def test_paths_start_from_the_list_where_that_can_be(sop_copy, tmp_path):
    for output, prefix in ((sop_copy / "a.columns", ""), (tmp_path / "a.columns", "sop")):
        done = pack_list("shapes.csv", output, str(sop_copy))
        assert done.root == output.parent
        train = open_list(str(output), output.parent, "train")
        assert train.paths[0].startswith(str(output.parent / prefix)) and os.path.isfile(train.paths[0])


def test_rows_of_lists(sop_tree, tmp_path):
    pack_list("shapes.csv", tmp_path / "a.columns", sop_tree)
    for path in (str(tmp_path / "a.columns"), "shapes.csv"):
        whole = open_list(path, sop_tree, "test")
        for rows in (slice(0, 9), slice(6, None), slice(None, 3)):
            name = f"{path}#rows={'' if rows.start is None else rows.start}:{'' if rows.stop is None else rows.stop}"
            assert np.array_equal(open_list(name, sop_tree, "test").paths, whole.paths[rows])
        train = open_list(f"{path}#rows=0:6", sop_tree, "train")
        assert type(train) is Records and len(train) == 6
        for rows, sentence in (("5:5", "no row is from 5 to before 5"), ("30:40", "rows=30:.* names none of them")):
            with pytest.raises(InputError, match=sentence):
                open_list(f"{path}#rows={rows}", sop_tree, "test")


def test_training_is_on_the_disk_and_goes_on_to_the_bit(sop_tree, tmp_path):
    """Stopped and resumed, by no loading process or two: the same figures; a test on some rows of the list."""
    pack_list("shapes.csv", tmp_path / "a.columns", sop_tree)
    path = tmp_path / "a.columns"
    flags = {"train_list": path, "test_list": f"{path}#rows=0:12", "total_iter_num": 4, "save_iter_step": 2}
    for name, workers in (("whole", 0), ("loaded", 2)):
        run("train_elem", train_flags(sop_tree, tmp_path / name, **flags, num_workers=workers))
    run("train_elem", train_flags(sop_tree, tmp_path / "cut", **{**flags, "total_iter_num": 2}))
    line = as_line({"checkpoint": tmp_path / "cut", "total_iter_num": 4, "allow_changed": "total_iter_num"})
    run("train_elem", line)
    losses = {}
    for name in ("whole", "loaded", "cut"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert len(losses["whole"]) == 4 and losses["whole"] == losses["loaded"] == losses["cut"]
    facts = read_json(tmp_path / "whole" / "config.json")["lists"]
    assert (facts["train"]["images"], facts["train"]["labels"], facts["test"]["images"]) == (30, 10, 12)
    line = {"pretrained_model": tmp_path / "whole", "use_gpu": False, "num_workers": 0, "output_dir": tmp_path / "eval"}
    printed = run("eval", as_line({**line, "data_dir": sop_tree, "test_list": f"{path}#rows=0:12"}))
    assert "End test 12" in printed
    # Another list on the disk is another one.
    pack_list("Ebay_test.txt", path, sop_tree, overwrite=True)
    with pytest.raises(InputError, match="the train list .* is not what it was when the run began"):
        run("train_elem", line_of_checkpoint(tmp_path / "whole"))


def line_of_checkpoint(folder):
    return as_line({"checkpoint": folder, "total_iter_num": 9, "allow_changed": "total_iter_num"})


def test_pairs_of_a_list_on_the_disk(sop_tree, tmp_path):
    pack_list("Ebay_train.txt", tmp_path / "a.columns", sop_tree)
    flags = {"train_list": tmp_path / "a.columns", "test_list": "Ebay_test.txt", "samples_each_class": 3}
    for skip in ("stop", "skip"):
        run("train_pair", train_flags(sop_tree, tmp_path / skip, **flags, on_bad_image=skip, loss_name="supcon"))
    losses = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("stop", "skip")]
    first = [json.loads(line)["loss"] for text in losses for line in text.splitlines()[:1]]
    assert first[0] == first[1]


# The order of an epoch.


@pytest.mark.parametrize("size", [1, 2, 3, 1000, SMALL, SMALL + 1, 2**17, 2**17 + 1, 300_001])
def test_a_permutation_holds_everything_once(size):
    order = Permutation(size, 3, 1)
    assert np.array_equal(np.sort(order(slice(None))), np.arange(size))
    positions = np.random.default_rng(0).integers(0, size, 50)
    assert np.array_equal(order(positions), order(slice(None))[positions])
    if size > 3:
        assert not np.array_equal(order(slice(None)), Permutation(size, 3, 2)(slice(None)))
        assert np.array_equal(order(slice(None)), Permutation(size, 3, 1)(slice(None)))


def test_a_permutation_is_as_random_as_a_drawn_one():
    """Where a value goes is uniform over keys, neighbours do not stay together, and few values stay where they are."""
    size, keys = SMALL + 4321, 2000
    places = np.array([Permutation(size, 7, key)(np.array([5, 6])) for key in range(keys)])
    for column in (places[:, 0], places[:, 1], (places[:, 1] - places[:, 0]) % size):
        counts = np.bincount(column * 20 // size, minlength=20)
        chi_squared = ((counts - keys / 20) ** 2 / (keys / 20)).sum()
        assert chi_squared < 45  # of 19 degrees of freedom: exceeded once in a thousand
    order = Permutation(size, 1)(slice(None))
    assert (order == np.arange(size)).sum() < 10
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 5 / np.sqrt(size)
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 5 / np.sqrt(size)
    cycles, seen, place = 0, np.zeros(size, bool), 0
    for start in range(size):
        if not seen[start]:
            cycles += 1
            place = start
            while not seen[place]:
                seen[place] = True
                place = order[place]
    assert 1 <= cycles < 40  # in the mean ln(size), about 11.7


def synthetic(folder, rows, labels):
    """A list on the disk of made-up rows: every label has some."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(rows) % labels)
    with ListWriter(folder) as writer:
        for start in range(0, rows, 1000):
            part = codes[start : start + 1000]
            paths = b"".join(b"%08d.jpg" % (start + row) for row in range(len(part)))
            writer.part("all").append_encoded(np.frombuffer(paths, np.uint8), np.full(len(part), 12), part)
        writer.finish("nothing")
    return open_stored(folder, Path("photos"), "train"), codes


def batches_of(sampler, count, start_step=0, seed=0):
    stream = iter(sampler.starting(seed, start_step))
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize("kind", ["shuffled", "pk"])
def test_batches_are_those_of_any_start_and_any_rank(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("data.samplers._permutation.SMALL", 100)  # so that few rows are as many
    stored, codes = synthetic(tmp_path / "a.columns", 3000, 410 if kind == "pk" else 50)
    assert np.array_equal(stored.vocabulary.codes, codes) and stored.vocabulary.counts.min() >= 1

    def sampler():
        if kind == "pk":
            return PKSampler(stored.vocabulary, 12, 3)
        return ShuffledSampler(stored.vocabulary, 12)

    steps = sampler().steps
    first, second = (batches_of(sampler(), 20, start) for start in (steps - 5, steps))
    assert first[5:] == second[:15]
    assert first != batches_of(sampler(), 20, steps - 5, seed=1)
    halves = []
    for rank in range(2):
        stream = iter(RankBatches(sampler().starting(0, steps - 5), rank, 2))
        halves.append([next(stream) for _ in range(20)])
    assert [[*left, *right] for left, right in zip(*halves, strict=True)] == first
    rows = sampler().starting(3).epoch(0)
    if kind == "shuffled":
        assert len(np.unique(rows)) == rows.size == len(stored) // 12 * 12
    else:
        of_batch = codes[rows].reshape(steps, 4, 3)
        assert (of_batch == of_batch[:, :, :1]).all() and len(np.unique(of_batch[:, :, 0])) == steps * 4


def test_a_list_of_millions_takes_no_memory(tmp_path):
    """Opened, and asked for batches, by a process of its own: its memory does not follow the rows."""
    synthetic(tmp_path / "a.columns", 300_000, 1000)
    (tmp_path / "ask.py").write_text(
        "import sys, tracemalloc\n"
        "from pathlib import Path\n"
        "from data.stored import open_stored\n"
        "from data.samplers import ShuffledSampler\n"
        "tracemalloc.start()\n"
        "records = open_stored(Path(sys.argv[1]), Path('photos'), 'train')\n"
        "stream = iter(ShuffledSampler(records.vocabulary, 256).starting(0, 1100))\n"
        "rows = [sample.index for _ in range(20) for sample in next(stream)]\n"
        "paths = [records.paths[row] for row in rows]\n"
        "print(tracemalloc.get_traced_memory()[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(tmp_path / "ask.py"), str(tmp_path / "a.columns")]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    # An order of 300,000 rows alone would be 2.4 MB.
    assert int(ended.stdout) < 2_000_000


# What is refused, and what a killed process leaves.


def test_a_list_that_is_wrong_is_not_packed(sop_tree, tmp_path):
    rows = [{"label": str(row % 7), "path": f"{row}.jpg", "split": "train"} for row in range(100)]
    for row in range(50, 90):
        rows[row]["label"] = ""
    rows[3]["split"] = "trian"
    write_csv(tmp_path / "a.csv", rows)
    pack_list("Ebay_train.txt", tmp_path / "a.columns", sop_tree)
    before = (tmp_path / "a.columns" / CARD).read_bytes()
    with pytest.raises(InputError) as error:
        pack_list("a.csv", tmp_path / "a.columns", tmp_path, overwrite=True, rows=10)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("a.csv:5: split is 'trian', expected train or validation") and len(lines) == 21
    assert lines[-1] == "and more faults; python reader.py check shows all"
    assert (tmp_path / "a.columns" / CARD).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.columns", "a.csv"]


@pytest.mark.parametrize(
    "source, output, sentence",
    [
        ("Ebay_train.txt", "a.csv", "a list on the disk has to end in .columns"),
        ("Ebay_train.txt", "there.columns", "is there already; give --overwrite to replace it"),
        ("nothing.csv", "a.columns", "no list 'nothing.csv', neither in"),
        (".", "a.columns", "is a folder, whose list python reader.py make writes; pack takes that"),
        ("empty.csv", "a.columns", "no row in it"),
        ("bytes.txt", "a.columns", "not a list, nor any text in UTF-8"),
        ("out.csv", "a.columns", "path '../x.jpg' leads out of data_dir"),
        ("labels.csv", "a.columns", "no column 'label' in"),
    ],
)
def test_what_is_packed_wrongly(sop_copy, tmp_path, source, output, sentence):
    (tmp_path / "there.columns").mkdir()
    (sop_copy / "empty.csv").write_text("label,path,split\n")
    (sop_copy / "bytes.txt").write_bytes(b"\xff\xff\xff")
    (sop_copy / "out.csv").write_text("label,path,split\n1,../x.jpg,train\n")
    (sop_copy / "labels.csv").write_text("labels,path,split\n1,x.jpg,train\n")
    with pytest.raises(InputError, match=sentence):
        pack_list(source, tmp_path / output, sop_copy)
    assert not list(tmp_path.glob("*.part"))


def damaged(folder, change):
    if change == "short":
        path = folder / "train" / "codes"
        path.write_bytes(path.read_bytes()[:-4])
    elif change == "missing":
        (folder / "train" / "paths").unlink()
    elif change == "no card":
        (folder / CARD).unlink()
    elif change == "another format":
        (folder / CARD).write_text((folder / CARD).read_text().replace('"format": 1', '"format": 2'))
    elif change == "no json":
        (folder / CARD).write_text("{")
    else:
        (folder / CARD).write_text('{"format": 1, "parts": {"train": {"rows": "x"}}}')


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("short", "codes' has 116 bytes, not 120: it was cut short; pack the list anew"),
        ("missing", "cannot read '.*paths': No such file"),
        ("no card", "a.columns' is no list on the disk: it has no columns.json; python reader.py pack makes one"),
        ("another format", "is of the format 2, not 1; pack its list anew"),
        ("no json", "cannot read '.*columns.json'"),
        ("other", "columns.json' is damaged: a part without rows"),
    ],
)
def test_lists_that_are_damaged(sop_tree, tmp_path, change, sentence):
    pack_list("shapes.csv", tmp_path / "a.columns", sop_tree)
    damaged(tmp_path / "a.columns", change)
    with pytest.raises(InputError, match=sentence):
        open_list(str(tmp_path / "a.columns"), sop_tree, "train")


def test_what_a_list_on_the_disk_does_not_do(sop_tree, tmp_path, monkeypatch):
    pack_list("Ebay_train.txt", tmp_path / "a.columns", sop_tree)
    flags = {"train_list": tmp_path / "a.columns", "test_list": "Ebay_test.txt"}
    for more, sentence in (
        ({"val_classes": 3}, "--val_classes takes rows out of a list, but .* stays on the disk; give a --test_list"),
        (
            {"cache_bytes": "1GB"},
            "--cache_bytes keeps images of a list in memory, but .* stays on the disk; leave it out",
        ),
    ):
        with pytest.raises(InputError, match=sentence):
            run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags, **more))
    monkeypatch.setattr("data.stored.MOST_IN_MEMORY", 20)
    with pytest.raises(
        InputError, match="30 rows are too many to be tested on, .*name a part of them, as a.columns#rows=0"
    ):
        open_list(str(tmp_path / "a.columns"), sop_tree, "test")
    pack_list("shapes.csv", tmp_path / "b.columns", sop_tree)
    with pytest.raises(InputError, match="no row in it has the split train"):
        only_test = tmp_path / "test.csv"
        lines = (sop_tree / "shapes.csv").read_text().splitlines()
        only_test.write_text("\n".join([lines[0], *(line for line in lines if "validation" in line)]))
        pack_list(str(only_test), tmp_path / "c.columns", sop_tree)
        open_list(str(tmp_path / "c.columns"), sop_tree, "train")


def test_images_of_some_rows_are_looked_at(tmp_path):
    stored, _ = synthetic(tmp_path / "a.columns", 5000, 10)
    assert stored.inspected == range(0, 5000, 5) and len(stored.inspected) == INSPECTED
    [(row, sentence), *_] = first_broken(stored, 3)
    assert row == 0 and "cannot read image 'photos/00000000.jpg'" in sentence
    assert stored.location(7) == f"{tmp_path / 'a.columns'}: row 7"


def test_a_process_that_is_killed_leaves_the_list_as_it_was(sop_tree, tmp_path):
    pack_list("Ebay_train.txt", tmp_path / "a.columns", sop_tree)
    rows = [f"{row % 700},{row}.jpg,train\n" for row in range(140_000)]
    (tmp_path / "big.csv").write_text("label,path,split\n" + "".join(rows))
    # Without what reader.py loads besides.
    script = "import sys; from data.pack import pack_list; pack_list(*sys.argv[1:], overwrite=True)"
    words = [sys.executable, "-c", script, tmp_path / "big.csv", tmp_path / "a.columns", tmp_path]
    process = subprocess.Popen(list(map(str, words)), cwd=ROOT)
    while not (tmp_path / "a.columns.part" / "train" / "paths").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(open_list(str(tmp_path / "a.columns"), sop_tree, "train")) == 30
    # Another try is whole, and leaves nothing beside it.
    (tmp_path / "big.csv").write_text("label,path,split\n" + "".join(rows[:10]))
    pack_list(str(tmp_path / "big.csv"), tmp_path / "a.columns", tmp_path, overwrite=True)
    assert len(open_stored(tmp_path / "a.columns", tmp_path, "train")) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.columns", "big.csv"]


def test_a_disk_that_is_full_leaves_nothing(sop_tree, tmp_path, monkeypatch):
    def refuse(self, name, values):
        raise InputError(f"cannot write {name!r}: No space left on device")

    monkeypatch.setattr(data.pack.PartWriter, "_write", refuse)
    with pytest.raises(InputError, match="No space left"):
        pack_list("shapes.csv", tmp_path / "a.columns", sop_tree)
    assert list(tmp_path.iterdir()) == []


def test_the_command(sop_tree, tmp_path, capsys):
    reader.main(["pack", "shapes.csv", f"--data_dir={sop_tree}", f"--output={tmp_path / 'a.columns'}"])
    printed = capsys.readouterr().out
    assert "a.columns, 30 rows of 10 labels (train), 30 rows of 10 labels (validation), " in printed
    assert printed.endswith(f"--test_list={tmp_path}/a.columns --data_dir={sop_tree}\n")
