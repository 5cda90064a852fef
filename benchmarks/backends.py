"""Every backend of an index on the same items: build, add, one query at a time, recall, disk, and a kill within an add.

    python benchmarks/backends.py                                   # 100,000 x 512, 15 minutes on 2 cores
    python benchmarks/backends.py --postgres_url=postgresql://user@host/database --qdrant_url=http://localhost:6333
    python benchmarks/backends.py --items=5000 --only=exact,qdrant_edge

Items are in clusters of five around 64 dimensions, so that the nearest has a cosine of about 0.77. What is not
installed, or has no server, is left out with the reason. Kills: so many processes that add as many items as `--add` are
killed at times spread over what that takes; one is survived by an index that is then the old or the new one, finds what
is in it, and can be added to.
"""

import argparse
import datetime
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np

from benchmarks._contest import machine, markdown, versions, write
from core.errors import InputError
from retrieval.index.backends import make_backend
from retrieval.index.index import Index

PACKAGES = ("torch", "numpy", "faiss-cpu", "qdrant-edge-py", "qdrant-client", "psycopg")
LATENT, CLUSTER, NOISE = 64, 5, 0.55
K = 10
# A name for each row of the table, the backend and its options.
CONTENDERS = {
    "exact, float32": ("exact", {"codes": "float32"}),
    "exact, int8": ("exact", {"codes": "int8"}),
    "exact, binary": ("exact", {"codes": "binary"}),
    "qdrant_edge": ("qdrant_edge", {}),
    "faiss hnsw_sq8": ("faiss", {"faiss_kind": "hnsw_sq8"}),
    "faiss hnsw": ("faiss", {"faiss_kind": "hnsw"}),
    "faiss ivf": ("faiss", {"faiss_kind": "ivf"}),
    "pgvector, halfvec": ("pgvector", {}),
    "pgvector, vector": ("pgvector", {"halfvec": False}),
    "qdrant": ("qdrant", {}),
}
COLUMNS = ["backend", "build s", "add s", "query ms", "recall@10", "disk MB", "kills survived"]


class Items:
    """Embeddings (N, D) of unit length, drawn part by part from the same clusters."""

    def __init__(self, count: int, width: int):
        self.rng = np.random.default_rng(0)
        self.centres = self.rng.standard_normal((max(1, count // CLUSTER), LATENT), np.float32)
        self.directions = self.rng.standard_normal((LATENT, width), np.float32)

    def draw(self, count: int) -> np.ndarray:
        clusters = np.arange(count) % len(self.centres)
        latent = self.centres[clusters] + NOISE * self.rng.standard_normal((count, LATENT), np.float32)
        embeddings = latent @ self.directions
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def measured(folder: Path, backend: str, options: dict, items: np.ndarray, added: np.ndarray, queries, right, kills):
    """The figures of one contender, {column: value}. Raises InputError where it is not here."""
    make_backend(backend, options)[0].refuse_new()
    paths = [f"/{row}.jpg" for row in range(len(items))]
    labels = np.arange(len(items)) % 1000
    began = time.perf_counter()
    index = Index.build(folder, items, paths, labels, None, backend, options)
    build = time.perf_counter() - began

    index.search(queries[:2], K)  # the first search opens the backend
    seconds, hits = [], 0
    for query, expected in zip(queries, right, strict=True):
        began = time.perf_counter()
        found = index.search(query[None], K).ids[0]
        seconds.append(time.perf_counter() - began)
        hits += len(np.intersect1d(found, expected))
    disk = disk_mb(index)

    began = time.perf_counter()
    index.add(added, [f"/added/{row}.jpg" for row in range(len(added))], None)
    add = time.perf_counter() - began
    survived = sum(survives(index, added, add * (number + 1) / (kills + 1)) for number in range(kills))
    return {
        "build s": build,
        "add s": add,
        "query ms": 1000 * statistics.median(seconds),
        "recall@10": hits / right.size,
        "disk MB": disk,
        "kills survived": f"{survived} of {kills}",
    }


def disk_mb(index: Index) -> float:
    """What the index takes, its own segments and the backend's; of PostgreSQL its table with all indexes of it."""
    blocks = sum(path.lstat().st_blocks for path in index.folder.rglob("*") if path.is_file())
    size = 512 * blocks
    if index.card["backend"] == "pgvector":
        backend, _ = make_backend("pgvector", index.card["options"])
        size += backend.table_bytes(index.card["state"])
    return size / 2**20


def survives(index: Index, added: np.ndarray, seconds: float) -> bool:
    """Whether an index is whole, and can be added to, after a process that adds to it was killed after `seconds`."""
    before = len(Index.open(index.folder))
    words = [sys.executable, __file__, f"--child={index.folder}", f"--seed={time.time_ns()}", f"--add={len(added)}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout.readline() != "adding\n":
            return False
        time.sleep(seconds)
        child.kill()
    opened = Index.open(index.folder)
    if len(opened) not in (before, before + len(added)):
        return False
    last = opened.rows.ids[-20:]
    found = opened.search(opened.rows.take(last)[0], 1).ids[:, 0]
    opened.add(added[:1], [f"/after/{time.time_ns()}.jpg"], None)
    return bool((found == last).mean() > 0.9)


def child(folder: str, seed: int, count: int) -> None:
    """Add items of a direction of their own, and say when that begins."""
    index = Index.open(folder)
    embeddings = np.random.default_rng(seed).standard_normal((count, index.card["width"]), np.float32)
    paths = [f"/{seed}/{row}.jpg" for row in range(count)]
    print("adding", flush=True)
    index.add(embeddings, paths, None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, help="items of the index (default: 100000)")
    parser.add_argument("--width", type=int, default=512, help="numbers of an embedding (default: 512)")
    parser.add_argument("--add", type=int, default=1000, help="items added at once (default: 1000)")
    parser.add_argument("--queries", type=int, default=300, help="queries, one at a time (default: 300)")
    parser.add_argument("--kills", type=int, default=3, help="processes killed within an add (default: 3)")
    parser.add_argument("--only", default="", help="names of backends with commas (default: all)")
    parser.add_argument("--postgres_url", default="", help="a server with pgvector (default: $POSTGRES_URL)")
    parser.add_argument("--qdrant_url", default="", help="a server of Qdrant")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.seed, args.add)
        return
    if args.postgres_url:
        os.environ["POSTGRES_URL"] = args.postgres_url  # for the processes that are killed, too
    drawing = Items(args.items, args.width)
    items, added, queries = drawing.draw(args.items), drawing.draw(args.add), drawing.draw(args.queries)
    right = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :K]
    table = {}
    for name, (backend, options) in CONTENDERS.items():
        if args.only and backend not in args.only.split(","):
            continue
        if backend == "qdrant":
            options = {"qdrant_url": args.qdrant_url}
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures = measured(Path(folder) / "i", backend, options, items, added, queries, right, args.kills)
            except InputError as error:
                print(f"left out: {name} ({error})", flush=True)
                continue
            finally:
                forget(Path(folder) / "i")
        table[name] = figures
        print(name, figures, flush=True)
    named = ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())
    load = os.getloadavg()[0]
    text = f"{machine()}; {named}; {datetime.date.today()}; load average at the end {load:.1f}.\n\n{as_table(table)}"
    facts = {"machine": machine(), "versions": versions(PACKAGES), "items": args.items, "width": args.width}
    write(args.output, "backends", {**facts, "backends": table}, text)


def forget(folder: Path) -> None:
    """Drop what an index has on a server."""
    if (folder / "index.json").exists():
        card = Index.open(folder).card
        if card["state"]:
            make_backend(card["backend"], card["options"])[0].discard(card["state"])
        shutil.rmtree(folder)


def as_table(table: dict[str, dict]) -> str:
    forms = {"build s": ".1f", "add s": ".2f", "query ms": ".2f", "recall@10": ".3f", "disk MB": ".0f"}
    rows = []
    for name, figures in table.items():
        rows.append([name, *(format(figures[column], forms.get(column, "")) for column in COLUMNS[1:])])
    return markdown(COLUMNS, rows)


if __name__ == "__main__":
    main()
