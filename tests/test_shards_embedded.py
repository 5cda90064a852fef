"""Shards of images, embedded one by one: what is read of tars and parquet files, two workers, one that is killed, and an
index of what all of them made."""

import contextlib
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
from processes import LAUNCHED, torchrun
from runs import as_line, read_json, run

from core.errors import InputError
from data.image.files import read_bytes
from data.shards import find_shards, unpack
from embeddings.files import load_table
from embeddings.ready import find_ready
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
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
        # Where a killed one leaves what it had unpacked.
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "TMPDIR": str(tmp_path)}
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
    assert f"rank 0 of 2: {int(is_left)} shard" in again.communicate(timeout=300)[0]
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
    with pytest.raises(InputError, match="e.png is a link to /etc/passwd, and has no bytes of its own"):
        unpack(tmp_path / "b.tar", tmp_path / "room")


def test_a_broken_picture_is_named_as_it_is_called(shards, sop_tree, finished_run, tmp_path):
    write_tar(
        shards / "photos-1.tar", [("good.png", pictures(sop_tree)[0][1]), ("bad.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99)]
    )
    with pytest.raises(InputError, match=r"photos-1.tar/bad.png"):
        run("infer", line_of(shards, tmp_path / "out", finished_run))
    printed = run("infer", line_of(shards, tmp_path / "out", finished_run, on_bad_image="skip"))
    assert "3 shards embedded, 15 images" in printed and "1 shard was done already" in printed


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


def test_what_many_embedded_becomes_an_index(shards, sop_tree, finished_run, tmp_path):
    """The same as of the embeddings of one process, and what is looked for is found in it."""
    output = tmp_path / "out"
    run("infer", line_of(shards, output, finished_run))
    build = ["build", tmp_path / "i", *as_line({**CPU, "pretrained_model": finished_run, "data_dir": shards})]
    printed = run("search", [*build, "--embeddings", output])
    assert f"30 images in {tmp_path / 'i'}, backend exact" in printed
    index = Index.open(tmp_path / "i")
    assert index.rows.labels().tolist() == list(range(30))
    # Pictures are read where they lie, in tars and in a parquet file.
    paths = index.rows.paths()
    assert paths[0].startswith(f"{shards}/photos-0.tar/0000.jpg#bytes=") and paths[29].endswith("#row=5")
    assert [read_bytes(path).tobytes() for path in paths] == [content for _, content in pictures(sop_tree)]
    whole = np.concatenate([load_table(file).mapped() for file in find_ready(embeddings=(str(output),))])
    assert np.array_equal(index.rows.take(index.rows.ids)[0], whole)

    (tmp_path / "asks.png").write_bytes(pictures(sop_tree)[25][1])
    find = ["find", tmp_path / "i", "--input", tmp_path / "asks.png", "--k=1", "--output", tmp_path / "hits.json"]
    run("search", [*find, *as_line(CPU)])
    [hit] = read_json(tmp_path / "hits.json")[0]["hits"]
    assert (hit["label"], Path(hit["path"]).parent.name) == (25, "photos-3.parquet") and hit["score"] > 0.9999


def test_more_embeddings_come_to_an_index(shards, finished_run, tmp_path):
    """Files one by one; those that were there are passed over; what nobody labelled stands without a label."""
    output = tmp_path / "out"
    run("infer", line_of(shards, output, finished_run))
    first, second, *_ = [output / f"photos-{number}.tar.npz" for number in range(3)]
    arrays = dict(np.load(second))
    del arrays["labels"]
    np.savez(second, **arrays, boxes=np.full((8, 4), [0.0, 0.0, 4.0, 5.0]))
    run("search", ["build", tmp_path / "i", *as_line(CPU), f"--pretrained_model={finished_run}", "--embeddings", first])
    printed = run("search", ["add", tmp_path / "i", *as_line(CPU), "--embeddings", output])
    assert "22 images added" in printed and "8 skipped, which were there already" in printed
    rows = Index.open(tmp_path / "i").rows
    assert rows.labels().tolist() == [*range(8), *[None] * 8, *range(16, 30)]
    assert np.isnan(rows.boxes()[:8]).all() and rows.boxes()[8].tolist() == [0, 0, 4, 5]
    assert rows.paths()[0].startswith(os.path.abspath("photos-0.tar/0000.jpg#bytes="))


def test_embeddings_that_make_no_index(shards, finished_run, tmp_path):
    """Each is one sentence, and nothing is left behind."""
    output = tmp_path / "out"
    run("infer", line_of(shards, output, finished_run))
    build = ["build", tmp_path / "i", *as_line({**CPU, "pretrained_model": finished_run})]

    def refused(sentence, *words):
        with pytest.raises(InputError, match=sentence):
            run("search", [*build, *words, "--embeddings", output])
        assert not (tmp_path / "i").exists()

    refused("--embeddings are made already; --input does not go with them", "--input", shards)
    refused("--embeddings are made already; --output does not go with them", f"--output={tmp_path / 'x.npz'}")
    refused("was embedded by another model; what differs: image_shape: .*32, 32.* there", "--image_shape=3,48,48")
    mark = output / "photos-1.tar.done"
    facts = mark.read_text()
    mark.write_text(json.dumps({**json.loads(facts), "images": 9}))
    refused("photos-1.tar.npz' has 8 embeddings, but .*photos-1.tar.done' tells of 9")
    mark.unlink()
    refused("photos-1.tar.npz' has no mark .done, so its shard is not whole; run infer.py --shards again")
    mark.write_text(facts)
    (output / "photos-1.tar.npz").rename(tmp_path / "kept.npz")
    refused("photos-1.tar.done': the embeddings of this shard are gone; run infer.py --shards again")
    arrays = dict(np.load(tmp_path / "kept.npz"))
    np.savez(output / "photos-1.tar.npz", **{**arrays, "embeddings": arrays["embeddings"][:, :5]})
    refused("photos-1.tar.npz' is damaged: its embeddings have 5 numbers, those before 8")
    np.savez(output / "photos-1.tar.npz", embeddings=arrays["embeddings"])
    refused("photos-1.tar.npz' does not tell which model made it; an index takes what infer.py wrote")
    with pytest.raises(InputError, match="build needs --pretrained_model"):
        run("search", ["build", tmp_path / "i", *as_line(CPU), "--embeddings", output])
    with pytest.raises(InputError, match="no .npz in folder"):
        find_ready(embeddings=(str(shards),))
    with pytest.raises(InputError, match="it has to end in .npz"):
        find_ready(embeddings=(str(shards / "photos-0.tar"),))


# Ray Data.


def ray_line(shards, output, **flags):
    """Through a network with random weights, which are the same in every process."""
    flags = {"model": "ResNet18", "image_shape": "3,96,96", "output": output, "ray_workers": 2, **CPU, **flags}
    return [sys.executable, str(ROOT / "infer.py"), *as_line(flags), "--shards", str(shards)]


def workers_below(pid):
    """The processes that embed, of those that a process has started, or these have."""
    parents, words = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words[int(folder.name)] = (folder / "cmdline").read_text()
    found = []
    for own, line in words.items():
        above = own
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and "ShardEmbedder" in line:
            found.append(own)
    return found


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="requirements/ray.txt is not installed")


@pytest.mark.slow
def test_two_workers_of_ray(ray, shards, tmp_path):
    output = tmp_path / "out"
    done = subprocess.run(ray_line(shards, output), capture_output=True, text=True, timeout=300)
    assert "2 workers of Ray: 4 shards embedded, 30 images, in " in done.stdout, done.stderr
    embeddings = assert_whole(output)
    # The same as without, and what is done is left out.
    alone = ray_line(shards, tmp_path / "alone", ray_workers=0)
    assert "4 shards embedded, 30 images" in subprocess.run(alone, capture_output=True, text=True, timeout=300).stdout
    np.testing.assert_allclose(embeddings, assert_whole(tmp_path / "alone"), rtol=1e-4, atol=1e-5)
    (output / "photos-2.tar.done").unlink()
    write_tar(shards / "photos-1.tar", [("good.png", b"no picture")])
    done = subprocess.run(ray_line(shards, output), capture_output=True, text=True, timeout=300)
    assert done.returncode and "photos-1.tar/good.png" in done.stderr and "Traceback" not in done.stderr
    assert (output / "photos-2.tar.done").exists()


@pytest.mark.slow
def test_a_worker_of_ray_is_killed(ray, shards, tmp_path):
    """Another one does its shard again: nothing lost, nothing twice."""
    output = tmp_path / "out"
    words = ray_line(shards, output, model="ResNet50", image_shape="3,224,224", batch_size=1)
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = None
    while killed is None:
        assert driver.poll() is None, driver.communicate()[1]
        if any(output.glob("*.done")):
            killed = next(iter(workers_below(driver.pid)), None)
            if killed is not None:
                os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    printed, told = driver.communicate(timeout=400)
    assert driver.returncode == 0, told
    assert "2 workers of Ray: 4 shards embedded" in printed or "shards were done already" in printed
    assert_whole(output)


def test_ray_that_is_not_installed(shards, finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    sentence = "--ray_workers needs the package ray: pip install -r requirements/ray.txt"
    with pytest.raises(InputError, match=sentence):
        run("infer", line_of(shards, tmp_path / "out", finished_run, ray_workers=2))
    with pytest.raises(InputError, match="--ray_workers goes with --shards"):
        run("infer", ["--ray_workers=2"])
