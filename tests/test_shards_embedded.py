"""Shards of images, embedded one by one: what is read of tars and parquet files, two workers, and one that is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from processes import LAUNCHED
from runs import as_line, read_json, run
from test_ranks import torchrun

from core.errors import InputError
from data.shards import find_shards, unpack
from embeddings.files import load_table

CPU = {"use_gpu": False, "num_workers": 0, "batch_size": 4}

pytestmark = pytest.mark.usefixtures("tiny")


def pictures(sop_tree):
    """[(name, content)] of the test pictures, each under a name of its own."""
    files = sorted(sop_tree.rglob("*.jpg")) + sorted(sop_tree.rglob("*.png"))
    return [(f"{row:04d}{file.suffix}", file.read_bytes()) for row, file in enumerate(files[:30])]


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(sop_tree, tmp_path):
    """Three tars and a parquet file of 30 pictures, 8, 8, 8 and 6, with labels 0, 1, ..."""
    folder = tmp_path / "shards"
    folder.mkdir()
    images = pictures(sop_tree)
    assert len(images) == 30
    for number in range(3):
        members = []
        for row, (name, content) in enumerate(images[8 * number : 8 * number + 8], 8 * number):
            members += [(name, content), (f"{row:04d}.cls", str(row).encode()), (f"{row:04d}.txt", b"a text")]
        write_tar(folder / f"photos-{number}.tar", members)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"bytes": content, "path": name} for name, content in images[24:]]
    parquet.write_table(pyarrow.table({"image": rows, "label": list(range(24, 30))}), folder / "photos-3.parquet")
    return folder


def line_of(shards, output, finished_run, **flags):
    words = as_line({**CPU, "pretrained_model": finished_run, "output": output, **flags})
    return [*words, "--shards", str(shards)]


def assert_whole(output, names=("photos-0.tar", "photos-1.tar", "photos-2.tar", "photos-3.parquet")):
    """Nothing lost, nothing twice, nothing left over."""
    files = {file.name for file in output.iterdir()}
    assert files == {f"{name}{end}" for name in names for end in (".npz", ".done")}
    tables = [load_table(output / f"{name}.npz") for name in names]
    labels = np.concatenate([table.records.labels for table in tables])
    assert labels.tolist() == list(range(30))
    paths = [path for table in tables for path in table.records.paths.tolist()]
    assert len(set(paths)) == 30 and paths[0].startswith("photos-0.tar/0000.")
    return np.concatenate([table.mapped() for table in tables])


def test_shards_are_embedded_as_their_pictures_are(shards, sop_tree, finished_run, tmp_path):
    printed = run("infer", line_of(shards, tmp_path / "out", finished_run))
    assert "rank 0 of 1: 4 shards embedded, 30 images, in " in printed
    embeddings = assert_whole(tmp_path / "out")
    for name, content in pictures(sop_tree):
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name, _ in pictures(sop_tree)]
    run("infer", [*as_line({**CPU, "pretrained_model": finished_run, "output": tmp_path / "a.npz"}), "--input", *names])
    assert np.abs(np.load(tmp_path / "a.npz")["embeddings"] - embeddings).max() < 1e-5
    mark = read_json(tmp_path / "out" / "photos-0.tar.done")
    assert (mark["shard"], mark["images"]) == ("photos-0.tar", 8)
    printed = run("infer", line_of(shards, tmp_path / "out", finished_run))
    assert "0 shards embedded, 0 images" in printed and "; 4 shards were done already" in printed
    # A shard that has changed, and one whose embeddings are gone, are embedded again.
    write_tar(shards / "photos-0.tar", [("x.png", pictures(sop_tree)[0][1]), ("y.txt", b"")])
    (tmp_path / "out" / "photos-1.tar.npz").unlink()
    assert "2 shards embedded, 9 images" in run("infer", line_of(shards, tmp_path / "out", finished_run))
    mark = {**read_json(tmp_path / "out" / "photos-2.tar.done"), "model": {"model": "other"}}
    (tmp_path / "out" / "photos-2.tar.done").write_text(json.dumps(mark))
    with pytest.raises(InputError, match="photos-2.tar.done': another model has embedded this shard; give another"):
        run("infer", line_of(shards, tmp_path / "out", finished_run))


def test_ranks_share_the_shards(shards, finished_run, tmp_path, monkeypatch):
    """As a job array has it, one after the other and in any order."""
    for rank, count in ((1, 2), (0, 2)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        printed = run("infer", line_of(shards, tmp_path / "out", finished_run))
        assert f"rank {rank} of 2: {count} shards embedded" in printed
    assert_whole(tmp_path / "out")
    for rank, size in (("2", "2"), ("-1", "2")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(InputError, match=f"RANK is {rank} and WORLD_SIZE 2; ranks are 0 to WORLD_SIZE - 1"):
            run("infer", line_of(shards, tmp_path / "out", finished_run))


@pytest.mark.slow
def test_two_workers_of_torchrun(shards, finished_run, tmp_path):
    done = torchrun(2, "infer", *line_of(shards, tmp_path / "out", finished_run))
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2: 2 shards embedded" in done.stdout and "rank 1 of 2: 2 shards embedded" in done.stdout
    assert_whole(tmp_path / "out")


@pytest.mark.slow
def test_a_worker_is_killed(shards, finished_run, tmp_path):
    """The other goes on; started again, the killed one does what is left, and no shard twice."""
    output = tmp_path / "out"
    words = [sys.executable, LAUNCHED, "infer", *line_of(shards, output, finished_run, batch_size=1)]

    def start(rank):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        return subprocess.Popen([str(word) for word in words], env=environment, stdout=subprocess.PIPE, text=True)

    workers = [start(rank) for rank in range(2)]
    # The first is killed when it has done one shard, while it is at its second.
    while not (output / "photos-0.tar.done").exists():
        assert workers[0].poll() is None
        time.sleep(0.005)
    workers[0].send_signal(signal.SIGKILL)
    assert "2 shards embedded" in workers[1].communicate(timeout=300)[0]
    assert workers[0].wait() in (-signal.SIGKILL, 0)
    stamp = (output / "photos-0.tar.npz").stat().st_mtime_ns
    is_left = not (output / "photos-2.tar.done").exists()
    again = start(0)
    assert f"rank 0 of 2: {int(is_left)} shards embedded" in again.communicate(timeout=300)[0]
    assert_whole(output)
    assert (output / "photos-0.tar.npz").stat().st_mtime_ns == stamp


ODD_TARS = {
    "cannot be read: ": lambda file: file.write_bytes(b"no tar at all" * 100),
    "cannot be read: unexpected end of data": lambda file: file.write_bytes(file.read_bytes()[:3000]),
    "has 2 images called 'a.tar/x.png'": lambda file: write_tar(file, [("x.png", b"1"), ("x.png", b"2")]),
    "x.json: Expecting": lambda file: write_tar(file, [("x.png", b"1"), ("x.json", b"{")]),
}


@pytest.mark.parametrize("sentence", ODD_TARS)
def test_damaged_shards_are_named(sop_tree, tmp_path, sentence):
    shard = write_tar(tmp_path / "a.tar", pictures(sop_tree))
    ODD_TARS[sentence](shard)
    with pytest.raises(InputError, match=sentence):
        unpack(shard, tmp_path)


def test_what_lies_in_a_shard_stays_in_its_folder(tmp_path):
    """Names that lead out of it, links, and samples in folders."""
    (tmp_path / "room").mkdir()
    members = [("../../a.png", b"1"), ("/etc/b.png", b"2"), ("c/d.png", b"3"), ("c/d.json", b'{"label": 7}')]
    shard = write_tar(tmp_path / "a.tar.gz", members, "w:gz")
    records, names = unpack(shard, tmp_path / "room")
    assert names == ["a.tar.gz/../../a.png", "a.tar.gz//etc/b.png", "a.tar.gz/c/d.png"] and records.labels is None
    assert sorted(file.name for file in (tmp_path / "room").iterdir()) == [f"{row:08d}.png" for row in range(3)]
    link = tarfile.TarInfo("e.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(link)
    assert unpack(tmp_path / "b.tar", tmp_path / "room") == (None, [])


def test_a_broken_picture_is_named_as_it_is_called(shards, sop_tree, finished_run, tmp_path):
    write_tar(
        shards / "photos-1.tar", [("good.png", pictures(sop_tree)[0][1]), ("bad.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99)]
    )
    with pytest.raises(InputError, match=r"photos-1.tar/bad.png"):
        run("infer", line_of(shards, tmp_path / "out", finished_run))
    printed = run("infer", line_of(shards, tmp_path / "out", finished_run, on_bad_image="skip"))
    assert "3 shards embedded, 15 images" in printed and "1 shards were done already" in printed


def test_mistakes_are_told(shards, finished_run, tmp_path):
    for words, sentence in (
        (["nowhere.tar"], "no file or folder 'nowhere.tar'"),
        ([str(shards / "photos-0.tar")] * 2, "2 shards are called 'photos-0.tar'"),
        ([str(tmp_path)], "no .tar or .tar.gz or .tgz or .parquet in folder"),
        ([__file__], "is no shard: it has to end in .tar, "),
    ):
        with pytest.raises(InputError, match=sentence):
            find_shards(shards=tuple(words))
    for flags, sentence in (
        ({"output": tmp_path / "a.npz"}, "--shards needs --output=FOLDER"),
        ({"output": None}, "--shards needs --output=FOLDER"),
        ({"scores": True}, "--shards are embedded into files; --scores does not go with them"),
    ):
        with pytest.raises(InputError, match=sentence):
            run("infer", line_of(shards, **{"output": tmp_path / "out", "finished_run": finished_run, **flags}))
    assert not (tmp_path / "a.npz").exists() and Path(shards).is_dir()
