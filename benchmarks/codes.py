"""Search by codes beside float32 and FAISS: one query and many, memory, rows left open, recall.

    python benchmarks/codes.py                                   # 1 million x 512: 20 minutes on 2 cores, 5 GB of disk
    python benchmarks/codes.py --data=even --peers=False         # rows that fill all dimensions: the hard case
    python benchmarks/codes.py --rows=10000000 --peers=False --kinds=int8     # 27 GB of disk, mapped
    python benchmarks/codes.py --rows=20000 --rounds=1

Rows are made block by block into a file, which is mapped. `clustered`: clusters of five in 64 dimensions, and noise in
all; of a million, the nearest has a cosine of .8, the tenth of .5. `even`: rows of no structure. All contenders answer
the same queries in turn in one process; what codes find is held against float32's answer to the bit.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np
import torch

from benchmarks._contest import contest, heading, machine, markdown, scaled, seconds_text, versions, write
from core.slices import slices_of
from retrieval.coded_search import Part, left_open, search_by_codes, search_in_float32
from retrieval.codes import KINDS, Codes, on_grid
from retrieval.rows import row_lengths

PACKAGES = ("torch", "numpy", "faiss-cpu")
MADE_ROWS = 100_000  # made at a time
INNER, CLUSTER = 64, 5  # dimensions of the space that clusters lie in, rows a cluster
SPREAD, NOISE = 0.45, 0.35  # of rows around their centres, within that space and in all dimensions
TRAINED_ROWS = 65_536  # that FAISS's kinds are trained on
SINGLE, SINGLE_SLOW = 10, 2  # queries asked one by one, and of what reads all embeddings for each


class RowMaker:
    """Makes rows (n, width) float32 of length one: in clusters, or `even`, without structure."""

    def __init__(self, data: str, rows: int, width: int):
        self.generator = torch.Generator().manual_seed(0)
        self.width = width
        self.centres = None
        if data == "clustered":
            inner = min(INNER, width)
            self.basis, _ = torch.linalg.qr(self._normal(width, inner))
            self.centres = self._normal(max(1, rows // CLUSTER), inner)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def rows(self, clusters: torch.Tensor) -> torch.Tensor:
        """Rows of clusters with these numbers (n,)."""
        rows = self._normal(len(clusters), self.width)
        if self.centres is not None:
            centres = self.centres[clusters % len(self.centres)]
            within = (centres + SPREAD * self._normal(*centres.shape)) / centres.shape[1] ** 0.5
            rows = within @ self.basis.T + NOISE * rows / self.width**0.5
        return torch.nn.functional.normalize(rows, dim=1)


def write_rows(path: Path, data: str, rows: int, width: int, queries: int) -> tuple[np.ndarray, torch.Tensor]:
    """(rows (N, D) float32 in a file, mapped, queries (Q, D) of the same kind)."""
    maker = RowMaker(data, rows, width)
    table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    for block in slices_of(rows, MADE_ROWS):
        # Members of a cluster stand apart, as photos of an item do in a collection that grew.
        table[block] = maker.rows(torch.arange(block.start, block.stop)).numpy()
    asked = maker.rows(torch.randint(0, rows, (queries,), generator=maker.generator))
    table.flush()
    return np.load(path, mmap_mode="c"), asked


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


class Contender:
    """One way to search: `search(queries) -> (ids, scores)`, the seconds that its building took, and what it holds."""

    def __init__(self, name: str, search: Callable, build_seconds: float, megabytes: float):
        self.name = name
        self.search = search
        self.build_seconds = build_seconds
        self.megabytes = megabytes
        self.open_share = None
        self.open_count = None


def float32_contender(table: np.ndarray, lengths: np.ndarray, k: int) -> Contender:
    megabytes = 4 * table.size / 2**20
    return Contender("ours, float32", lambda asked: search_in_float32(asked, table, k, lengths=lengths), 0, megabytes)


def code_contender(
    kind: str, table: np.ndarray, lengths: np.ndarray, folder: Path, asked: torch.Tensor, k: int
) -> Contender:
    began = time.perf_counter()
    Codes.write(folder, table, lengths, kind)
    seconds = time.perf_counter() - began
    codes = Codes.open(folder, *table.shape, kind)
    megabytes = bytes_of(folder) / 2**20
    name = f"ours, {kind}, first stage {codes.first.width} columns"
    if kind == "binary":
        # The int8 codes behind the signs stay on the disk, and are read here and there.
        megabytes -= codes.full[0].codes.nbytes / 2**20
        name = "ours, binary before int8"
    contender = Contender(
        name, lambda queries: search_by_codes(queries, table, codes, k, lengths=lengths), seconds, megabytes
    )
    grid = on_grid(asked.numpy(), row_lengths(asked).numpy())
    pairs, given_up = left_open([Part(codes)], grid, k)
    contender.open_count = (len(pairs) + len(given_up) * len(table)) / len(asked)
    contender.open_share = contender.open_count / len(table)
    return contender


def faiss_contenders(table: np.ndarray, k: int) -> list[Contender]:
    """FAISS's flat index, and its quantised ones; left out where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        print(f"left out: FAISS ({error})")
        return []
    width = table.shape[1]
    product = faiss.METRIC_INNER_PRODUCT
    makers = {
        "faiss IndexFlatIP": lambda: faiss.IndexFlatIP(width),
        "faiss SQ8": lambda: faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, product),
        "faiss PQ": lambda: faiss.IndexPQ(width, max(1, width // 8), 8, product),
        "faiss RaBitQ": lambda: faiss.IndexRaBitQ(width, product),
    }
    contenders = []
    for name, make in makers.items():
        began = time.perf_counter()
        index = make()
        if not index.is_trained:
            index.train(np.array(table[:: max(1, len(table) // TRAINED_ROWS)]))
        for block in slices_of(len(table), MADE_ROWS):
            index.add(np.ascontiguousarray(table[block]))
        seconds = time.perf_counter() - began
        code_bytes = getattr(index, "code_size", 4 * width)

        def search(asked: torch.Tensor, index=index) -> tuple[np.ndarray, np.ndarray]:
            scores, ids = index.search(asked.numpy(), k)
            return ids, scores

        contenders.append(Contender(name, search, seconds, code_bytes * len(table) / 2**20))
    if width % 8 == 0:
        contenders.append(binary_contender(faiss, table, k))
    return contenders


def binary_contender(faiss, table: np.ndarray, k: int) -> Contender:
    """Signs by their Hamming distance."""
    began = time.perf_counter()
    index = faiss.IndexBinaryFlat(table.shape[1])
    for block in slices_of(len(table), MADE_ROWS):
        index.add(np.packbits(table[block] > 0, axis=1))

    def search(asked: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        distances, ids = index.search(np.packbits(asked.numpy() > 0, axis=1), k)
        return ids, -distances

    seconds = time.perf_counter() - began
    return Contender("faiss BinaryFlat, signs", search, seconds, table.size / 8 / 2**20)


def one_by_one(search: Callable, asked: torch.Tensor) -> Callable:
    """A function that asks some queries singly, of which the seconds of one count."""

    def run() -> None:
        for query in asked:
            search(query[None])

    return scaled(run, 1 / len(asked), f"mean of {len(asked)}")


def recall(ids: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(ours, theirs)) / len(theirs) for ours, theirs in zip(ids, right)]))


def lane(data: str, args: argparse.Namespace, folder: Path) -> dict:
    """All contenders on one kind of data: {name: figures}."""
    table, asked = write_rows(folder / "rows.npy", data, args.rows, args.width, args.queries)
    lengths = row_lengths(torch.from_numpy(table)).numpy()
    contenders = [float32_contender(table, lengths, args.k)]
    for kind in args.kinds.split(","):
        contenders.append(code_contender(kind, table, lengths, folder / kind, asked, args.k))
        print(f"{contenders[-1].name}: built in {contenders[-1].build_seconds:.0f} s", flush=True)
    if args.peers:
        contenders += faiss_contenders(table, args.k)

    singles = {contender.name: one_by_one(contender.search, asked[:SINGLE]) for contender in contenders}
    singles[contenders[0].name] = one_by_one(contenders[0].search, asked[:SINGLE_SLOW])
    batches = {contender.name: lambda c=contender: c.search(asked) for contender in contenders}
    single_figures = contest(singles, args.rounds)
    batch_figures = contest(batches, args.rounds)
    right_ids, right_scores = batch_figures[contenders[0].name]["value"]
    figures = {}
    for contender in contenders:
        single, batch = single_figures[contender.name], batch_figures[contender.name]
        ids, scores = batch.pop("value")
        single.pop("value")
        figures[contender.name] = {
            "build_s": contender.build_seconds,
            "single": single,
            "batch": batch,
            "megabytes": contender.megabytes,
            "open_rows": contender.open_count,
            "open_share": contender.open_share,
            "recall": recall(ids, right_ids),
            "is_equal": bool((ids == right_ids).all() and (scores == right_scores).all()),
        }
        if contender.name.startswith("ours"):
            assert figures[contender.name]["is_equal"], f"{contender.name} does not find what float32 finds"
    return figures


def lane_table(figures: dict[str, dict], queries: int, k: int) -> str:
    rows = []
    base = figures["ours, float32"]
    for name, figure in figures.items():
        row = [name, seconds_text(figure["build_s"])]
        for form in ("single", "batch"):
            row.append(f"{1000 * figure[form]['seconds']:.1f}")
            row.append(f"{base[form]['seconds'] / figure[form]['seconds']:.1f}")
        row.append(f"{figure['megabytes']:,.0f}")
        open_text = ""
        if figure["open_rows"] is not None:
            open_text = f"{figure['open_rows']:,.1f} ({figure['open_share']:.1e})"
        found = "equal to the bit" if figure["is_equal"] else f"{figure['recall']:.3f}"
        rows.append([*row, open_text, found])
    columns = ["", "build s", "one query, ms", "× float32", f"{queries} queries, ms", "× float32"]
    return markdown([*columns, "MB of codes or rows", "rows left open a query", f"recall@{k}"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="embeddings (default: 1000000)")
    parser.add_argument("--width", type=int, default=512, help="their dimensions (default: 512)")
    parser.add_argument("--queries", type=int, default=100, help="queries of a batch (default: 100)")
    parser.add_argument("--k", type=int, default=10, help="neighbours asked for (default: 10)")
    parser.add_argument("--data", default="clustered,even", help="kinds of rows (default: clustered,even)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of codes (default: int8,binary)")
    parser.add_argument("--peers", default=True, type=lambda text: text == "True", help="FAISS, too (default: True)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--folder", default=None, help="where rows are written meanwhile (default: the system's)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    result = {"machine": machine(), "versions": versions(PACKAGES), "rows": args.rows, "width": args.width, "data": {}}
    parts = [heading(args.rounds, PACKAGES)]
    for data in args.data.split(","):
        # Rows, int8 codes, and the signs' own int8 codes.
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            needed = args.rows * args.width * (4 + 1.2 * len(args.kinds.split(",")))
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise SystemExit(f"{folder!r} has {free / 1e9:.0f} GB free; {needed / 1e9:.0f} GB are needed")
            result["data"][data] = lane(data, args, Path(folder))
        table = lane_table(result["data"][data], args.queries, args.k)
        parts.append(f"### {data.capitalize()} rows, N = {args.rows:,}, D = {args.width}\n\n{table}")
        print(parts[-1], flush=True)
    write(args.output, "codes", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
