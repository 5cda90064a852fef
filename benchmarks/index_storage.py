"""The index's own storage beside Qdrant Edge and LanceDB as places to keep embeddings: speed, disk, kills, readers.

    python benchmarks/index_storage.py                           # 100,000 x 512
    python benchmarks/index_storage.py --rows=5000 --kills=2
    python benchmarks/index_storage.py --stores=ours,lance       # LanceDB: pip install lancedb

Each store keeps an id, a path, a label and 512 float32 for each item, and takes the same calls, each of which counts
when it has returned: adds of a tenth at a time, adds of single items, a deletion of a tenth, opening anew. Then
processes that add batches are killed at a random moment: whatever was said to be there has to be there, bit for bit,
and no part of a batch. A second process looks in while the first writes.
"""

import argparse
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np

from benchmarks._contest import heading, machine, markdown, versions, write
from core.slices import slices_of

PACKAGES = ("torch", "numpy", "qdrant-edge-py", "lancedb")
BATCH = 500  # items of an add that may be killed
PARTS = 10  # adds that all rows come in
SINGLES = 20  # adds of one item
POINTS = 2000  # handed to Qdrant Edge at a time
ROOT = Path(__file__).resolve().parents[1]
STORAGE_FILES = ("segments", "changes", "folder")  # of retrieval/index: what a store would replace


def rows_of(ids: np.ndarray, width: int) -> np.ndarray:
    """The embeddings (n, width) float32 of items, which follow from their ids, so that they can be told again."""
    rows = [np.random.default_rng(int(id_)).standard_normal(width, np.float32) for id_ in ids]
    return np.stack(rows)


class Ours:
    """The folder of an index with the backend `exact`: segments, a card, a lock."""

    def __init__(self, folder: Path, width: int):
        self.folder = folder / "index"
        self.index = None
        if self.folder.exists():
            from retrieval.index.index import Index

            self.index = Index.open(self.folder)

    def add(self, ids: np.ndarray, rows: np.ndarray) -> None:
        from retrieval.index.index import Index

        paths = [f"/photos/{id_}.jpg" for id_ in ids]
        if self.index is None:
            self.index = Index.build(self.folder, rows, paths, ids % 100, None)
        else:
            self.index.add(rows, paths, ids % 100)

    def delete(self, ids: np.ndarray) -> None:
        self.index.delete(ids.tolist())

    def count(self) -> int:
        return 0 if self.index is None else len(self.index)

    def take(self, ids: np.ndarray) -> np.ndarray:
        return self.index.rows.take(ids)[0]

    def search(self, query: np.ndarray) -> np.ndarray:
        return self.index.search(query[None]).ids[0]


class QdrantEdge:
    """A shard of Qdrant Edge with its write-ahead log, which is flushed after each call."""

    def __init__(self, folder: Path, width: int):
        import qdrant_edge as edge

        self.edge = edge
        vectors = edge.EdgeVectorParams(size=width, distance=edge.Distance.Dot)
        # No graph is wanted of a store: threshold in kilobytes.
        optimisers = edge.EdgeOptimizersConfig(indexing_threshold=2**40)
        config = edge.EdgeConfig(vectors=vectors, optimizers=optimisers)
        path = folder / "shard"
        is_new = not path.exists()
        path.mkdir(exist_ok=True)
        if is_new:
            self.shard = edge.EdgeShard.create(str(path), config)
        else:
            self.shard = edge.EdgeShard.load(str(path), config)

    def add(self, ids: np.ndarray, rows: np.ndarray) -> None:
        for part in slices_of(len(ids), POINTS):
            points = []
            for id_, row in zip(ids[part].tolist(), rows[part].tolist(), strict=True):
                points.append(self.edge.Point(id_, row, {"path": f"/photos/{id_}.jpg", "label": id_ % 100}))
            self.shard.update(self.edge.UpdateOperation.upsert_points(points))
        self.shard.flush()

    def delete(self, ids: np.ndarray) -> None:
        self.shard.update(self.edge.UpdateOperation.delete_points(ids.tolist()))
        self.shard.flush()

    def count(self) -> int:
        return self.shard.count(self.edge.CountRequest(exact=True))

    def take(self, ids: np.ndarray) -> np.ndarray:
        records = {record.id: record.vector for record in self.shard.retrieve(ids.tolist(), False, True)}
        return np.array([records[id_] for id_ in ids.tolist()], np.float32)

    def search(self, query: np.ndarray) -> np.ndarray:
        parameters = self.edge.SearchParams(exact=True)
        request = self.edge.QueryRequest(limit=10, query=self.edge.Query.Nearest(query.tolist()), params=parameters)
        return np.array([point.id for point in self.shard.query(request)])


class Lance:
    """A table of LanceDB, in which each call is a version."""

    def __init__(self, folder: Path, width: int):
        import lancedb
        import pyarrow

        self.arrow = pyarrow
        columns = {"id": pyarrow.int64(), "path": pyarrow.string(), "label": pyarrow.int64()}
        self.schema = pyarrow.schema({**columns, "vector": pyarrow.list_(pyarrow.float32(), width)})
        database = lancedb.connect(str(folder / "lance"))
        self.table = database.create_table("items", schema=self.schema, exist_ok=True)

    def add(self, ids: np.ndarray, rows: np.ndarray) -> None:
        vectors = self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(rows.ravel()), rows.shape[1])
        paths = [f"/photos/{id_}.jpg" for id_ in ids]
        columns = [self.arrow.array(ids), self.arrow.array(paths), self.arrow.array(ids % 100), vectors]
        self.table.add(self.arrow.table(columns, schema=self.schema))

    def delete(self, ids: np.ndarray) -> None:
        self.table.delete(f"id IN ({','.join(map(str, ids.tolist()))})")

    def count(self) -> int:
        return self.table.count_rows()

    def take(self, ids: np.ndarray) -> np.ndarray:
        found = self.table.search().where(f"id IN ({','.join(map(str, ids.tolist()))})").limit(len(ids)).to_arrow()
        order = np.argsort(found["id"].to_numpy())
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
        return vectors[order][np.argsort(np.argsort(ids))]

    def search(self, query: np.ndarray) -> np.ndarray:
        return self.table.search(query).distance_type("cosine").limit(10).to_arrow()["id"].to_numpy()


STORES = {"ours": Ours, "edge": QdrantEdge, "lance": Lance}


def seconds_of(act: Callable) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def disk_megabytes(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 2**20


def in_process(*words: object) -> subprocess.Popen:
    command = [sys.executable, __file__, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def timings(name: str, folder: Path, rows: int, width: int) -> dict:
    """What the calls of one store take, in seconds, and what it takes of the disk, in MB."""
    store = STORES[name](folder, width)
    ids = np.arange(rows)
    embeddings = rows_of(ids, width)
    figures = {"add_s": 0.0}
    for part in slices_of(rows, max(1, rows // PARTS)):
        figures["add_s"] += seconds_of(lambda part=part: store.add(ids[part], embeddings[part]))
    more = np.arange(rows, rows + SINGLES)
    single_rows = rows_of(more, width)
    figures["single_add_ms"] = 0.0
    for number in range(SINGLES):
        one = slice(number, number + 1)
        figures["single_add_ms"] += 1000 / SINGLES * seconds_of(lambda one=one: store.add(more[one], single_rows[one]))
    figures["delete_s"] = seconds_of(lambda: store.delete(ids[::10]))
    figures["disk_mb"] = disk_megabytes(folder)
    store = None  # which closes it

    # Opened anew by a process that has imported everything: count and read a hundred items.
    kept = np.setdiff1d(ids, ids[::10])[:: max(1, rows // 100)]
    held = {}

    def reopen() -> None:
        held["store"] = STORES[name](folder, width)
        held["count"] = held["store"].count()
        held["rows"] = held["store"].take(kept)

    figures["reopen_s"] = seconds_of(reopen)
    assert held["count"] == rows + SINGLES - len(ids[::10])
    figures["is_bit_equal"] = bool((held["rows"] == embeddings[kept]).all())
    held["store"].search(embeddings[1])
    figures["exact_query_ms"] = 1000 * seconds_of(lambda: held["store"].search(embeddings[1]))
    return figures


def write_batches(name: str, folder: Path, width: int) -> None:
    """Add batches for ever, telling of each once it is there."""
    store = STORES[name](folder, width)
    batches = store.count() // BATCH
    while True:
        ids = np.arange(batches * BATCH, (batches + 1) * BATCH)
        store.add(ids, rows_of(ids, width))
        batches += 1
        print(batches, flush=True)


def look(name: str, folder: Path, width: int) -> None:
    print(STORES[name](folder, width).count(), flush=True)


def kills(name: str, folder: Path, width: int, count: int) -> dict:
    """What is left after processes that add were killed, one after the other, on one store."""
    figures = {"kills": count, "lost": 0, "half_batches": 0, "wrong_rows": 0, "failed_opens": 0, "readers": 0}
    random = np.random.default_rng(0)
    for _ in range(count):
        writer = in_process("--write", name, folder, width)
        acknowledged = int(writer.stdout.readline() or 0)
        reader = in_process("--look", name, folder, width)
        figures["readers"] += reader.wait() == 0
        time.sleep(random.uniform(0.1, 1.0))
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout.read().splitlines():
            acknowledged = int(line)
        writer.wait()
        try:
            store = STORES[name](folder, width)
            there = store.count()
            figures["lost"] += max(0, acknowledged * BATCH - there)
            figures["half_batches"] += there % BATCH != 0
            asked = np.arange(max(0, acknowledged * BATCH - 50), acknowledged * BATCH)
            figures["wrong_rows"] += int((store.take(asked) != rows_of(asked, width)).any(1).sum())
            del store
        except Exception as error:
            figures["failed_opens"] += 1
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
    return figures


def code_lines(path: Path) -> int:
    """Lines that are not empty and no comment; docstrings count."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def measured(name: str, args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = timings(name, Path(folder), args.rows, args.width)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures.update(kills(name, Path(folder), args.width, args.kills))
    figures["adapter_lines"] = len(inspect.getsource(STORES[name]).splitlines())
    return figures


def table_of(figures: dict[str, dict]) -> str:
    rows = []
    for name, figure in figures.items():
        rows.append(
            [
                name,
                *(f"{figure[key]:.2f}" for key in ("add_s", "single_add_ms", "delete_s", "reopen_s", "exact_query_ms")),
                f"{figure['disk_mb']:.0f}",
                "yes" if figure["is_bit_equal"] else "no",
                figure["kills"],
                figure["lost"] + figure["wrong_rows"],
                figure["half_batches"],
                figure["failed_opens"],
                f"{figure['readers']} of {figure['kills']}",
            ]
        )
    columns = ["", "add all, s", "one add, ms", "delete a tenth, s", "reopen, s", "exact query, ms", "disk, MB"]
    columns += ["float32 as given", "kills", "items lost", "half batches", "failed opens", "read while written"]
    return markdown(columns, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="items (default: 100000)")
    parser.add_argument("--width", type=int, default=512, help="their dimensions (default: 512)")
    parser.add_argument("--stores", default=",".join(STORES), help=f"which of {', '.join(STORES)} (default: all)")
    parser.add_argument("--kills", type=int, default=10, help="processes killed while they add (default: 10)")
    parser.add_argument("--folder", default=None, help="where stores are made meanwhile (default: the system's)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)  # the process that is killed
    parser.add_argument("--look", nargs=3, help=argparse.SUPPRESS)  # the one that looks in meanwhile
    args = parser.parse_args(argv)
    for words, act in ((args.write, write_batches), (args.look, look)):
        if words:
            act(words[0], Path(words[1]), int(words[2]))
            return
    figures = {}
    for name in args.stores.split(","):
        try:
            figures[name] = measured(name, args)
            print(f"{name}: {figures[name]}", flush=True)
        except ImportError as error:
            print(f"left out: {name} ({error})", flush=True)
    lines = {name: code_lines(ROOT / "retrieval" / "index" / f"{name}.py") for name in STORAGE_FILES}
    notes = [f"retrieval/index: {', '.join(f'{name}.py {count} lines' for name, count in lines.items())}"]
    notes += [f"{name}: an adapter of {figure['adapter_lines']} lines" for name, figure in figures.items()]
    parts = [heading(1, PACKAGES), table_of(figures), "; ".join(notes) + "."]
    content = {"machine": machine(), "versions": versions(PACKAGES), "stores": figures, "lines": lines}
    write(args.output, "index_storage", content, "\n\n".join(parts))


if __name__ == "__main__":
    main()
