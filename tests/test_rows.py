"""Embeddings that go to the disk as they come: as NumPy would write them, in bounded memory, and after a kill."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import weakref
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import SCRIPTS, as_line, run, tiny_backbone
from torch import nn

from config.script import run_script
from core.arrays import RowFile, write_npz
from core.errors import InputError
from data.records import Records
from data.samplers import InOrder
from embeddings.files import load_table
from embeddings.rows import KEY_BYTES, OrderedRows, resumable_rows
from embeddings.streaming import embed_stream
from embeddings.table import EmbeddingTable
from models import Embedder
from retrieval.index import changes
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
MB = 2**20


def numbers(rows, width=3):
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


def rows_of(table, folder, start=0):
    """A RowFile that holds a table, written in two parts."""
    file = open(folder / "rows", "w+b", buffering=0)
    file.write(bytes(start))
    rows = RowFile(file, table.shape[1], folder / "rows", start)
    rows.append(table[:5])
    rows.append(table[5:])
    return rows


@pytest.mark.parametrize("start", [0, 64])
def test_rows_come_back_as_they_were_written(tmp_path, start):
    table = numbers(12)
    rows = rows_of(table, tmp_path, start)
    assert len(rows) == 12 and np.array_equal(rows.mapped(), table)
    assert np.array_equal(rows.head(4), table[:4]) and np.array_equal(rows.head(99), table)
    for memory in (1, 60, 10**6):
        blocks = list(rows.blocks(memory))
        assert np.array_equal(np.concatenate(blocks), table) and all(len(b) == 1 or b.nbytes <= memory for b in blocks)
    rows.cut(7)
    assert np.array_equal(rows.mapped(), table[:7])
    rows.append(table[:1])
    assert np.array_equal(rows.mapped(), np.concatenate([table[:7], table[:1]]))


def test_an_npz_of_rows_is_the_one_of_numpy(tmp_path):
    table, others = numbers(12), {"labels": np.arange(12), "paths": np.array(["é", "b" * 9] * 6), "one": np.array("x")}
    np.savez(tmp_path / "theirs.npz", **others, embeddings=table, last=np.ones((2, 3)).T)
    write_npz(tmp_path / "ours.npz", {**others, "embeddings": rows_of(table, tmp_path), "last": np.ones((2, 3)).T})
    # The members are the same to the byte; between them is padding, so that arrays can be mapped.
    with zipfile.ZipFile(tmp_path / "ours.npz") as ours, zipfile.ZipFile(tmp_path / "theirs.npz") as theirs:
        assert ours.namelist() == theirs.namelist()
        assert [ours.read(name) for name in ours.namelist()] == [theirs.read(name) for name in theirs.namelist()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.npz", "rows", "theirs.npz"]


def listed(count):
    columns = {"paths": np.arange(count).astype(str), "labels": np.zeros(count, np.int64)}
    everyone = np.ones(count, bool)
    return Records("list", **columns, is_query=everyone, is_gallery=everyone)


def test_json_of_rows_is_the_one_of_a_dictionary(tmp_path, monkeypatch):
    table, images = numbers(12, 9), listed(12)
    images.paths[3] = 'a "é"'
    monkeypatch.setattr(RowFile, "blocks", lambda rows, memory, every=RowFile.blocks: every(rows, 100))
    EmbeddingTable(images, rows_of(table, tmp_path)).save(tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == json.dumps(dict(zip(images.paths.tolist(), table.tolist())))


@pytest.mark.parametrize("on_disk", [False, True])
def test_npy_holds_the_embeddings_alone(tmp_path, on_disk):
    table = numbers(7)
    matrix = rows_of(table, tmp_path) if on_disk else torch.from_numpy(table)
    EmbeddingTable(listed(7), matrix).save(tmp_path / "x.npy")
    read = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert read.dtype == np.float32 and np.array_equal(read, table)


@pytest.mark.parametrize("labels", [None, [7, 7, 8, 8, 9, 9, 9], list("aabbccc")])
@pytest.mark.parametrize("memory", [1, 2**26])
def test_parquet_has_a_row_an_image(tmp_path, monkeypatch, labels, memory):
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet files need pyarrow")
    monkeypatch.setattr("embeddings.table.PARQUET_BLOCK", memory)
    table, images = numbers(7), listed(7)
    images = dataclasses.replace(images, labels=None, paths=np.array(["a \udce9", *"bcdefg"]))
    if labels is not None:
        images = dataclasses.replace(images, labels=np.array(labels))
    EmbeddingTable(images, rows_of(table, tmp_path)).save(tmp_path / "x.parquet")
    read = parquet.read_table(tmp_path / "x.parquet")
    assert str(read.schema.field("embedding").type) == "fixed_size_list<element: float>[3]"
    assert read.column("path").to_pylist() == ["a \\xe9", *"bcdefg"]
    assert np.array_equal(read.column("embedding").to_pylist(), table)
    assert read.column_names == ["path", *(["label"] if labels else []), "embedding"]
    assert labels is None or read.column("label").to_pylist() == labels
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == (7 if memory == 1 else 1)


def keys(rows):
    """Keys that differ, (n, KEY_BYTES) uint8, of the images with these numbers."""
    return np.array([[row] * KEY_BYTES for row in rows], np.uint8)


def test_a_torn_row_does_not_count(tmp_path):
    with pytest.raises(RuntimeError), resumable_rows(tmp_path / "x", {"a": 1}, 3) as rows:
        rows.append(numbers(4), keys(range(4)))
        raise RuntimeError
    for name in ("x", "x.keys"):
        with open(tmp_path / name, "ab") as file:
            file.write(b"half a r")
    with resumable_rows(tmp_path / "x", {"a": 1}, 3, go_on=True) as rows:
        assert len(rows) == 4
        rows.append(numbers(2), keys([9, 7]))
        assert np.array_equal(rows.rows.mapped(), np.concatenate([numbers(4), numbers(2)]))
        assert rows.find(keys([7, 5, 2, 9])).tolist() == [5, -1, 2, 4]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("torn", ["x", "x.keys"])
def test_a_row_without_its_key_does_not_count(tmp_path, torn):
    """As a kill between the two leaves it."""
    with pytest.raises(RuntimeError), resumable_rows(tmp_path / "x", {}, 3) as rows:
        rows.append(numbers(4), keys(range(4)))
        raise RuntimeError
    with open(tmp_path / torn, "r+b") as file:
        file.truncate((tmp_path / torn).stat().st_size - 1)
    with resumable_rows(tmp_path / "x", {}, 3, go_on=True) as rows:
        assert len(rows) == len(rows.keys) == 3


def test_rows_in_another_order(tmp_path):
    table, order = numbers(12), np.array([3, 0, 11, 3])
    rows = OrderedRows(rows_of(table, tmp_path), order)
    assert len(rows) == 4 and np.array_equal(rows.mapped(), table[order])
    assert np.array_equal(np.concatenate(list(rows.blocks(memory=24))), table[order])
    assert np.array_equal(rows.head(2), table[order[:2]])
    write_npz(tmp_path / "x.npz", {"embeddings": rows})
    with np.load(tmp_path / "x.npz") as saved:
        assert np.array_equal(saved["embeddings"], table[order])


def test_a_full_disk_is_one_sentence():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(InputError, match="cannot write 'there': No space left"),
    ):
        RowFile(file, 3, "there").append(numbers(4000))


class Loader:
    """Batches of numbers that stand for images; at most two batches may be alive at a time."""

    def __init__(self, images, batch_size):
        self.dataset, self.batches, self.alive = images, InOrder(len(images), batch_size), []

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.alive = [one for one in self.alive if one() is not None]
            assert len(self.alive) <= 2
            pixels = torch.tensor([draw.index for draw in batch], dtype=torch.float32)[:, None]
            self.alive.append(weakref.ref(pixels))
            yield pixels, None, torch.tensor([draw.index for draw in batch])


class Sixteen(nn.Module):
    """Sixteen numbers for one: itself, and zeros."""

    embedding_size = 16

    def forward(self, pixels):
        return nn.functional.pad(pixels, (0, 15))


def numbering_encoder(batch_size):
    """What stands for an Encoder: images are their numbers."""
    return SimpleNamespace(
        network=Sixteen(),
        device=torch.device("cpu"),
        batch_size=batch_size,
        fingerprint={},
        open_loader=lambda records, on_bad: Loader(records, batch_size),
    )


def peak_of(act):
    """The most memory, in bytes, that Python and NumPy took during act() beyond what they had."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_million_images_take_no_memory(tmp_path):
    """Their 64 MB of embeddings are never there at once, be it while they come or while the .npz is written."""
    count, images = 10**6, listed(10**6)

    def embed():
        with embed_stream(images, numbering_encoder(1000), folder=tmp_path) as table:
            assert len(table.matrix) == count and isinstance(table.matrix, RowFile)
            table.save(tmp_path / "x.npz")

    assert peak_of(embed) < 32 * MB < 64 * count
    with np.load(tmp_path / "x.npz") as saved:
        assert np.array_equal(saved["embeddings"][:, 0], np.arange(count)) and not saved["embeddings"][:, 1:].any()
        assert np.array_equal(saved["paths"], images.paths)


@pytest.mark.slow
def test_json_takes_no_memory(tmp_path):
    table, images = np.ones((100_000, 4), np.float32), listed(100_000)
    rows = rows_of(table, tmp_path)
    assert peak_of(lambda: EmbeddingTable(images, rows).save(tmp_path / "x.json")) < 8 * MB
    assert len(json.loads((tmp_path / "x.json").read_text())) == 100_000


def test_an_index_of_rows_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "COPIED", MB)
    table = numbers(20_000, 400)
    rows, paths = rows_of(table, tmp_path), [f"{i}" for i in range(20_000)]
    # Codes of a byte a number are in memory while they are made; the embeddings are not.
    words = (tmp_path / "index", rows.mapped(), paths, np.zeros(20_000, int), None)
    build = lambda: Index.build(*words, options={"codes": "float32"})  # noqa: E731
    assert peak_of(build) < 10 * MB < table.nbytes
    assert np.array_equal(Index.open(tmp_path / "index").rows.take(np.array([7, 19_999]))[0], table[[7, 19_999]])


@pytest.fixture
def sentence(monkeypatch, capsys):
    """Call infer.py with a mistaken line; returns its sentence."""

    def call(line):
        monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, line)])
        with pytest.raises(SystemExit) as end:
            run_script(SCRIPTS["infer"].main)
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("infer.py: ") and said.count("\n") == 1, said
        return said.removeprefix("infer.py: ").rstrip("\n")

    return call


@pytest.fixture
def stopped(sop_copy, tmp_path, monkeypatch):
    """Flags of a run that was stopped before its seventh batch of 4, 24 of 30 images being done."""
    with tiny_backbone():
        torch.manual_seed(0)
        torch.save(Embedder("Tiny").state_dict(), tmp_path / "weights.pt")
        flags = {"data_dir": sop_copy, "model": "Tiny", "image_shape": "3,32,32", "use_gpu": False, "num_workers": 0}
        flags |= {"pretrained_model": tmp_path / "weights.pt", "batch_size": 4, "precision": "fp32"}
        flags |= {"output": tmp_path / "x.npz"}
        last = next(sop_copy.glob("*/19_0.jpg"))
        whole = last.read_bytes()
        # It is damaged once everything has been looked at.
        monkeypatch.setattr("reader.refuse_broken_images", lambda lists: last.write_bytes(b"broken"))
        with pytest.raises(InputError, match="is not an image"):
            run("infer", as_line(flags))
        monkeypatch.undo()
        last.write_bytes(whole)
        assert not (tmp_path / "x.npz").exists() and (tmp_path / "x.npz.rows").exists()
        yield flags


def test_a_stopped_run_goes_on_and_only_when_asked(stopped, sentence, tmp_path):
    before = (tmp_path / "x.npz.rows").read_bytes()
    said = sentence(as_line(stopped))
    assert said.endswith("x.npz.rows' is what a stopped run has done; go on with --continue, or remove it")
    assert (tmp_path / "x.npz.rows").read_bytes() == before
    assert "24 of 30 images are embedded already" in run("infer", [*as_line(stopped), "--continue"])
    assert not (tmp_path / "x.npz.rows").exists() and not (tmp_path / "x.npz.rows.keys").exists()
    run("infer", as_line({**stopped, "output": tmp_path / "whole.npz"}))
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert "already" not in run("infer", [*as_line(stopped), "--continue"])
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_what_changed_meanwhile_is_embedded_anew(stopped, sop_copy, tmp_path):
    """One picture is replaced, one is gone from the list, one is new: the others are not embedded again."""
    first, second, third = sorted(sop_copy.glob("cross_final/1[15]_*.jpg"))[:3]
    shutil.copy(sop_copy / "disc_final" / "4_0.jpg", first)
    lines = (sop_copy / "Ebay_test.txt").read_text().splitlines()
    lines = [line for line in lines if not line.endswith(f"/{second.name}")]
    shutil.copy(third, sop_copy / "new.jpg")
    (sop_copy / "changed.txt").write_text("\n".join([*lines[:9], "99 11 1 new.jpg", *lines[9:]]))
    flags = {**stopped, "test_list": "changed.txt"}
    assert "22 of 30 images are embedded already" in run("infer", [*as_line(flags), "--continue"])
    run("infer", as_line({**flags, "output": tmp_path / "whole.npz"}))
    ours, whole = (load_table(tmp_path / name) for name in ("x.npz", "whole.npz"))
    assert ours.records.paths.tolist() == whole.records.paths.tolist()
    # Batches hold other images, which may change how a product is rounded: eps times its few hundred terms.
    torch.testing.assert_close(ours.matrix, whole.matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_skipped_and_told(sop_copy, tmp_path, finished_run, workers):
    (sop_copy / "cross_final" / "11_1.jpg").write_bytes(b"")
    flags = {"pretrained_model": finished_run, "data_dir": sop_copy, "batch_size": 4, "use_gpu": False}
    flags |= {"num_workers": workers, "output": tmp_path / "x.npz"}
    with pytest.raises(InputError, match="Ebay_test.txt:3: '.*11_1.jpg' is not an image"):
        run("infer", as_line(flags))
    assert not (tmp_path / "x.npz.rows").exists()
    printed = run("infer", as_line({**flags, "on_bad_image": "skip"}))
    assert "11_1.jpg' is not an image" in printed and "; skipped\n" in printed
    assert "1 of 30 images could not be read and is left out" in printed
    table = load_table(tmp_path / "x.npz")
    images = table.records
    embeddings = table.matrix
    assert len(images) == len(embeddings) == 29 and "11_1.jpg" not in "".join(images.paths)
    for picture in sop_copy.glob("*/1[1-9]_*.jpg"):
        picture.write_bytes(b"")
    for picture in sop_copy.glob("*/20_*.jpg"):
        picture.write_bytes(b"")
    with pytest.raises(InputError, match="not one of 30 images could be read"):
        run("infer", as_line({**flags, "on_bad_image": "skip", "output": tmp_path / "y.npz"}))


def test_embeddings_that_are_not_finite_are_refused(sop_tree, tmp_path):
    with tiny_backbone():
        weights = Embedder("Tiny").state_dict()
        weights["backbone.bn1.running_mean"] *= float("nan")
        torch.save(weights, tmp_path / "nan.pth")
        line = {"pretrained_model": tmp_path / "nan.pth", "model": "Tiny", "image_shape": "3,32,32", "use_gpu": False}
        line |= {"input": sop_tree / "disc_final", "num_workers": 0}
        for outputs in ([tmp_path / "x.npz", tmp_path / "x.json"], []):
            with pytest.raises(InputError, match=r"the embedding of '.*disc_final/\d+_0.jpg' is NaN or infinite"):
                run("infer", [*as_line(line), *(["--output", *outputs] if outputs else [])])
        assert not (tmp_path / "x.npz").exists() and not (tmp_path / "x.json").exists()


def test_another_run_is_not_continued(stopped, sentence, tmp_path):
    before = (tmp_path / "x.npz.rows").read_bytes()
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    weights["backbone.conv1.bias"] += 1
    torch.save(weights, tmp_path / "other.pt")
    others = [
        ({"pretrained_model": tmp_path / "other.pt"}, "weights"),
        ({"precision": "bf16"}, "precision"),
        ({"image_shape": "3,40,32", "pooling": "max"}, "image_shape, pooling"),
    ]
    for flags, differ in others:
        said = sentence([*as_line({**stopped, **flags}), "--continue"])
        assert said.endswith(f"x.npz.rows' cannot be continued; what differs: {differ}")
    assert (tmp_path / "x.npz.rows").read_bytes() == before
    (tmp_path / "x.npz.rows").write_bytes(b"a diary\n" + bytes(999))
    assert "it is no file of ours" in sentence([*as_line(stopped), "--continue"])
    assert (tmp_path / "x.npz.rows").read_bytes() == b"a diary\n" + bytes(999)


@pytest.mark.parametrize("flags", [{}, {"input": "x.jpg"}])
def test_continue_needs_embeddings_to_write(sentence, flags):
    assert "--continue goes with --output of embeddings" in sentence([*as_line(flags), "--continue"])


def test_images_that_are_neither_kept_nor_printed_are_not_embedded(sop_tree, monkeypatch):
    monkeypatch.setattr("infer.PRINTED", 5)
    line = {"data_dir": sop_tree, "model": "Tiny", "image_shape": "3,32,32", "use_gpu": False, "num_workers": 0}
    with tiny_backbone():
        printed = run("infer", as_line(line))
    assert "the first 5 of 30 images are embedded and printed; --output keeps those of all" in printed
    assert printed.count("-feature") == 5 and printed.endswith("5 images, 8 numbers each\n")


@pytest.mark.slow
def test_a_killed_process_goes_on(sop_tree, tmp_path):
    """What it wrote after --continue is, byte by byte, what it writes undisturbed."""
    count, width = 240, 512
    torch.manual_seed(0)
    torch.save(Embedder("ResNet18").state_dict(), tmp_path / "weights.pt")
    lines = (sop_tree / "Ebay_test.txt").read_text().splitlines()[1:] * (count // 30)
    (tmp_path / "many.txt").write_text("\n".join(lines))
    flags = {"data_dir": sop_tree, "input": tmp_path / "many.txt", "pretrained_model": tmp_path / "weights.pt"}
    flags |= {"model": "ResNet18", "image_shape": "3,96,96", "batch_size": 4, "num_workers": 1, "use_gpu": False}
    words = [sys.executable, ROOT / "infer.py", *as_line(flags), "--output"]
    outputs = {name: [tmp_path / name / "x.npz", tmp_path / name / "x.json"] for name in ("killed", "whole")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*words, *outputs["killed"]], env=environment, stdout=subprocess.DEVNULL)
    rows, deadline = tmp_path / "killed" / "x.npz.rows", time.monotonic() + 120
    while not (rows.exists() and rows.stat().st_size > 4 * width * count // 4) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["x.npz.rows", "x.npz.rows.keys"]
    done = {"check": True, "env": environment, "capture_output": True, "text": True}
    printed = subprocess.run([*words, *outputs["killed"], "--continue"], **done).stdout
    assert f"of {count} images are embedded already" in printed
    subprocess.run([*words, *outputs["whole"]], **done)
    for ours, theirs in zip(*outputs.values()):
        assert ours.read_bytes() == theirs.read_bytes()
    with np.load(outputs["killed"][0]) as saved:
        assert len(saved["paths"]) == len(saved["embeddings"]) == count
    table = load_table(outputs["killed"][0])
    images = table.records
    embeddings = table.matrix
    card = table.fingerprint
    assert len(images) == len(embeddings) == 30 and card["model"] == "ResNet18"  # the list names each eight times
    assert not rows.exists()
