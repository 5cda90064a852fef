"""Evaluation of a gallery that is wider than memory: embeddings on the disk, a few queries, the memory that it takes.

    python benchmarks/wide.py                                           # 100,000 x 768: half a minute on 2 cores
    python benchmarks/wide.py --rows=1000000 --queries=10000            # 3 GB of disk, some minutes

Embeddings are written block by block to an .npz as `infer.py` leaves one, in clusters of five (benchmarks/codes.py), of
which some rows ask for the others. A process of its own loads it as `eval.py --embeddings` does and makes the figures.
Its anonymous memory is what it holds; pages of the file are there beside it as long as nobody else wants the memory.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np
import torch

from benchmarks._memory import memory
from benchmarks.codes import CLUSTER, RowMaker
from benchmarks._contest import heading, markdown, seconds_text, write
from core import arrays
from core.slices import slices_of
from embeddings.files import load_table
from retrieval.metrics.per_query import query_values

BLOCK = 50_000  # rows made at a time
METRICS = ("recall@1", "recall@10")
LOOKS = 0.05  # seconds between two looks at the memory
PART = (2048, 8192)  # rows whose bare product in float32 is timed, to tell what that of all would take


class MadeRows:
    """Rows that are made while they are written; blocks: as core.arrays.write_npz asks for them."""

    def __init__(self, rows: int, width: int):
        self.rows = rows
        self.width = width

    def __len__(self) -> int:
        return self.rows

    def blocks(self) -> Iterator[np.ndarray]:
        maker = RowMaker("clustered", self.rows, self.width)
        for block in slices_of(self.rows, BLOCK):
            yield maker.rows(torch.arange(block.start, block.stop)).numpy()


def probe(path: str, memory_mb: int) -> None:
    """In a process of its own: print, as JSON, seconds and figures."""
    arrays.MAPPED = 0  # small files, too
    table = load_table(path)
    print(json.dumps(memory("RssAnon")), flush=True)
    began = time.perf_counter()
    values = query_values(table.query_gallery(torch.device("cpu")), METRICS, memory=memory_mb * 2**20)
    figures = {name: values[name].double().mean().item() for name in METRICS}
    print(json.dumps({"seconds": time.perf_counter() - began, **figures}))


def measured(path: Path, memory_mb: int) -> dict[str, float]:
    """What a probe found, with its anonymous memory in MB: before the search, and at the most."""
    words = [sys.executable, __file__, f"--probe={path}", f"--memory_mb={memory_mb}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        before = json.loads(process.stdout.readline())
        most = before
        while process.poll() is None:
            try:
                most = max(most, memory("RssAnon", process.pid))
            except (OSError, StopIteration):  # it has ended meanwhile
                break
            time.sleep(LOOKS)
        return {**json.loads(process.stdout.read()), "before_mb": before, "most_mb": most}


def bare_seconds(queries: int, rows: int, width: int) -> float:
    """What the float32 product of all queries with all rows takes, reckoned from that of a part."""
    left, right = (torch.ones(count, width) for count in PART)
    torch.mm(left, right.T)
    began = time.perf_counter()
    torch.mm(left, right.T)
    return (time.perf_counter() - began) * queries * rows / math.prod(PART)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="embeddings (default: 100000)")
    parser.add_argument("--width", type=int, default=768, help="their dimensions (default: 768)")
    parser.add_argument("--queries", type=int, default=1000, help="rows that ask for the others (default: 1000)")
    parser.add_argument("--memory_mb", type=int, default=256, help="memory of the search (default: 256)")
    parser.add_argument("--folder", default=None, help="where the embeddings are put meanwhile")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.probe:
        probe(args.probe, args.memory_mb)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "embeddings.npz"
        numbers = np.arange(args.rows)
        columns = {"labels": numbers % max(1, args.rows // CLUSTER), "is_query": numbers < args.queries}
        columns["is_gallery"] = ~columns["is_query"]
        arrays.write_npz(path, {"embeddings": MadeRows(args.rows, args.width), **columns})
        file_mb = path.stat().st_size / 2**20
        found = measured(path, args.memory_mb)
    limit = bare_seconds(args.queries, args.rows, args.width)
    sizes = {"rows": args.rows, "width": args.width, "queries": args.queries}
    result = {**sizes, "file_mb": file_mb, "limit": limit, **found}
    titles = ["embeddings", "queries", "MB on the disk", "seconds", "× float32 product"]
    titles += ["MB held before", "MB held at the most", *METRICS]
    row = [f"ours: {args.rows:,} × {args.width}", f"{args.queries:,}", f"{file_mb:,.0f}"]
    row += [seconds_text(found["seconds"]), f"{found['seconds'] / limit:.2f}", f"{found['before_mb']:.0f}"]
    row += [f"{found['most_mb']:.0f}", *(f"{found[name]:.6f}" for name in METRICS)]
    write(args.output, "wide", result, f"{heading(1, ('torch', 'numpy'))}\n\n{markdown(titles, [row])}")


if __name__ == "__main__":
    main()
