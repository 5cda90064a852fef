"""A gallery wider than memory: searched block by block as all at once, its embeddings left on the disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core import arrays
from core.arrays import map_npz, write_npz
from core.errors import InputError
from embeddings.files import load_table
from retrieval import wide
from retrieval.exact import DISTANCES
from retrieval.metrics.per_query import query_values
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search
from retrieval.wide import search_wide_in_parts

ROOT = Path(__file__).parents[1]
MEMORY = 2**17  # of 4 x 48 numbers a row: blocks of 170 rows, and queries in several parts


def task(kind, sequences=None):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((400, 48)).astype(np.float32)
    if kind == "sorted":
        rows = rows[np.argsort(rows @ rows[0])]
    if kind == "equal":
        rows = rows[rng.integers(0, 5, 400)]
    labels = rng.integers(0, 40, 400)
    # Some of those who ask can be found, too.
    return QueryGallery.of(rows, labels, np.arange(400) % 9 == 0, np.arange(400) % 4 > 0, sequences)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", ["plain", "sorted", "equal"])
@pytest.mark.parametrize("k", [1, 60])
def test_blocks_find_what_all_rows_do(distance, kind, k):
    asked = task(kind, None if kind == "plain" else np.arange(400) // 3)
    rows, _ = search(asked, k, distance)
    parts = list(search_wide_in_parts(asked, k, distance, MEMORY))
    assert [part.start for part, _, _ in parts] == sorted({part.start for part, _, _ in parts})
    assert torch.equal(torch.cat([found for _, found, _ in parts]), rows)


@pytest.mark.parametrize("names", [("recall@1", "recall@10"), ("recall@5", "map@r", "mrr"), ("mrr",)])
def test_figures_are_those_of_all_rows(names, monkeypatch):
    whole = query_values(task("plain"), names)
    monkeypatch.setattr(wide, "WIDE", 0)
    assert wide.is_wide(task("plain"), MEMORY)
    blocks = query_values(task("plain"), names, memory=MEMORY)
    for name in names:
        assert torch.equal(blocks[name], whole[name])


def write_table(path, rows=300):
    numbers = np.random.default_rng(0).standard_normal((rows, 48)).astype(np.float32)
    write_npz(path, {"x": np.zeros(3, np.int8), "embeddings": numbers, "labels": np.arange(rows) // 3})
    return numbers


def test_embeddings_of_a_large_file_stay_on_the_disk(tmp_path, monkeypatch):
    numbers = write_table(tmp_path / "e.npz")
    assert not isinstance(load_table(str(tmp_path / "e.npz")).matrix.numpy().base, np.memmap)
    mapped = map_npz(tmp_path / "e.npz", "embeddings")
    assert isinstance(mapped, np.memmap) and mapped.offset % 64 == 0 and np.array_equal(mapped, numbers)
    assert np.array_equal(np.load(tmp_path / "e.npz")["embeddings"], numbers)
    monkeypatch.setattr(arrays, "MAPPED", 0)
    monkeypatch.setattr(arrays, "map_npz", lambda path, name: mapped)
    assert load_table(str(tmp_path / "e.npz")).matrix.data_ptr() == mapped.ctypes.data


def test_what_cannot_be_mapped_is_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAPPED", 0)
    path = tmp_path / "e.npz"
    numbers = np.ones((9, 48), np.float32)
    np.savez_compressed(path, embeddings=numbers, labels=np.arange(9))
    assert map_npz(path, "embeddings") is None
    assert len(load_table(str(path))) == 9
    np.savez(path, embeddings=np.ones((9, 48), np.int32), labels=np.arange(9))
    with pytest.raises(InputError, match="int32; what is looked for is floating-point"):
        load_table(str(path))
    write_table(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is no .npz file of plain arrays"):
        load_table(str(path))
    path.write_bytes(content.replace(b"(300, 48)", b"(301, 48)"))
    with pytest.raises(InputError, match=r"is damaged: embeddings are \(301, 48\) float32 in"):
        load_table(str(path))


PROBE = """
import sys
import torch
from benchmarks._memory import memory
from core import arrays
from embeddings.files import load_table
from retrieval.metrics.per_query import query_values
arrays.MAPPED = 0
table = load_table(sys.argv[1])
before = memory("RssAnon")
values = query_values(table.query_gallery(torch.device("cpu")), ("recall@1",), memory=2**22)
print(memory("RssAnon") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells anonymous memory")
def test_no_table_is_copied_to_memory(tmp_path):
    """48 MB on the disk, of which an evaluation of few queries takes less than half beside torch's own buffers."""
    rows = np.random.default_rng(0).standard_normal((49_152, 256), np.float32)
    is_query = np.arange(len(rows)) % 512 == 0
    columns = {"labels": np.arange(len(rows)) // 3, "is_query": is_query, "is_gallery": ~is_query}
    write_npz(tmp_path / "e.npz", {"embeddings": rows, **columns})
    words = [sys.executable, "-c", PROBE, str(tmp_path / "e.npz")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 24
