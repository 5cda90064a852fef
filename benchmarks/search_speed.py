"""Exact evaluation beside its limit and its peers: Recall@1 and the 100 nearest, one against the rest.

    python benchmarks/search_speed.py                      # four minutes on 2 cores
    python benchmarks/search_speed.py --rounds=5 --sizes=60502x512,60502x2048 --peer_share=1 --every_type=True
    python benchmarks/search_speed.py --sizes=60502x512 --peer_share=0 --curve= --busy=1     # beside a busy process
    python benchmarks/search_speed.py --sizes=5000x128 --curve=

Rows are clusters in super-clusters, 5.3 rows a label as in Stanford Online Products' test list. All contenders run in
turn in one process; their Recall@1 is printed to see that they did the same. A peer's seconds are proportional to its
queries, so by default it answers one in thirty and its seconds are multiplied; the gallery is whole.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np
import torch

from benchmarks._contest import PACKAGES, contest, heading, machine, markdown, scaled, seconds_text, versions, write
from retrieval.best_positive import first_precision, positive_ranks
from retrieval.product_type import TYPES, multiplies_int8, multiply, product_dtype
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores
from retrieval.topk import first_type, search_in_parts

SIDE = 4096
NEAREST = 100
CURVE_WIDTH = 512
ANCESTOR_CHUNKS = 2
ANCESTOR_CHUNK = 605  # rows of a chunk of PaddlePaddle's recall_topk, at 60,502 rows in 100 chunks
NOISE = {512: 2.1, 2048: 3.2}  # so that Recall@1 is about 0.95


def clusters(rows: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(unit rows (N, D) float32, labels (N,)) around 12 categories and N / 5.3 labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = max(2, round(rows * 11316 / 60502))
    codes = torch.randperm(rows, generator=generator) % labels
    centres = torch.randn(labels, width, generator=generator)
    centres += torch.randn(12, width, generator=generator)[torch.arange(labels) % 12]
    noise = NOISE.get(width, 2.0) * torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(centres[codes] + noise, dim=1), codes


def bare_product(table: torch.Tensor, dtype: torch.dtype) -> None:
    """All scores, block by block into one buffer, and nothing done with them: the limit."""
    if dtype == torch.int8:  # made as those of a search are, with columns in a multiple of 16
        table = Scores(QueryGallery.of(table)).factor("gallery", slice(None), dtype)
    table = table.to(dtype)
    buffer = torch.empty(SIDE * SIDE, dtype=product_dtype(dtype))
    for left in table.split(SIDE):
        for right in table.split(SIDE):
            multiply(left, right, buffer[: len(left) * len(right)].view(len(left), len(right)))


def ours_recall(
    table: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype | None, distance: str = "cosine"
) -> float:
    ranks = positive_ranks(QueryGallery.of(table, labels), (1, 10, 100), distance, dtype=dtype)
    return (ranks < 1).double().mean().item()


def ours_top(table: torch.Tensor, labels: torch.Tensor, k: int, dtype: torch.dtype | None) -> float:
    hits = 0
    for queries, rows, _ in search_in_parts(QueryGallery.of(table, labels), k, dtype=dtype):
        hits += int((labels[rows[:, 0]] == labels[queries]).sum())
    return hits / len(table)


def faiss_top(table: torch.Tensor, labels: torch.Tensor, k: int, queries: int) -> float:
    import faiss

    index = faiss.IndexFlatIP(table.shape[1])
    index.add(table.numpy())
    _, rows = index.search(table[:queries].numpy(), k + 1)
    rows = torch.from_numpy(rows)
    # A query usually finds itself first.
    nearest = torch.where(rows[:, 0] == torch.arange(queries), rows[:, 1], rows[:, 0])
    return (labels[nearest] == labels[:queries]).double().mean().item()


def pml_precision(table: torch.Tensor, labels: torch.Tensor, k: int, queries: int) -> float:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = ("precision_at_1",) if k == 1 else ("precision_at_1", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, k=k, device=torch.device("cpu"))
    figures = calculator.get_accuracy(table[:queries], labels[:queries], table, labels, ref_includes_query=True)
    return figures["precision_at_1"]


def oml_cmc(table: torch.Tensor, labels: torch.Tensor, k: int, queries: int) -> float:
    from oml.functional.knn import batched_knn
    from oml.functional.metrics import calc_retrieval_metrics

    everyone = torch.arange(len(table))
    _, retrieved_ids, gt_ids = batched_knn(table, everyone[:queries], everyone, k, labels_gt=labels)
    top_k = (5,) if k > 1 else ()
    figures = calc_retrieval_metrics(retrieved_ids, gt_ids, None, (1,), top_k, top_k, verbose=False)
    return figures["cmc"][1].item()


def ancestor_recall(table: torch.Tensor, labels: torch.Tensor, chunks: int) -> float:
    """PaddlePaddle's way (metric_learning/utility.py): squared distances of a chunk, a full argsort of every row."""
    features = table.numpy()
    codes = labels.numpy()
    squares = (features**2).sum(1)
    hits = 0
    for start in range(0, chunks * ANCESTOR_CHUNK, ANCESTOR_CHUNK):
        rows = np.arange(start, min(start + ANCESTOR_CHUNK, len(features)))
        distances = squares[rows][:, None] + squares - 2 * features[rows] @ features.T
        distances[np.arange(len(rows)), rows] += 1e8  # a row is no neighbour of its own
        order = distances.argsort(1)
        hits += (codes[order[:, 0]] == codes[rows]).sum()
    return hits / (chunks * ANCESTOR_CHUNK)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def contenders(
    table: torch.Tensor, labels: torch.Tensor, peer_share: int, every_type: bool
) -> dict[str, dict[str, Callable]]:
    """Both lanes: {lane: {name: function}}. every_type: ours in each type, not in float32 and the chosen one alone."""
    task = QueryGallery.of(table, labels)
    scores = Scores(task)
    lanes = {"Recall@1 (and @10, @100)": {}, "100 nearest": {}}
    recall, top = lanes.values()
    counted, searched = first_precision(task, scores), first_type(task, scores, NEAREST)
    for dtype in reversed(TYPES):
        if dtype == torch.int8 and not multiplies_int8():
            continue
        recall[f"bare product, {named(dtype)}"] = lambda dtype=dtype: bare_product(table, dtype)
        if every_type or dtype == torch.float32:
            recall[f"ours ({named(dtype)})"] = lambda dtype=dtype: ours_recall(table, labels, dtype)
            if dtype != torch.int8:
                top[f"ours ({named(dtype)})"] = lambda dtype=dtype: ours_top(table, labels, NEAREST, dtype)
    name = f"ours (chosen by measuring: {named(counted)})"
    recall[name] = lambda: ours_recall(table, labels, None)
    recall["ours, squared Euclidean"] = lambda: ours_recall(table, labels, None, "squared_euclidean")
    top[f"ours (chosen by measuring: {named(searched)})"] = lambda: ours_top(table, labels, NEAREST, None)
    if not peer_share:
        return lanes
    asked = len(table) // peer_share
    chunks = min(ANCESTOR_CHUNKS, len(table) // ANCESTOR_CHUNK)

    def peer(function, k):
        note = f"{asked:,} queries, seconds × {peer_share}" if peer_share > 1 else ""
        return scaled(lambda: function(table, labels, k, asked), len(table) / asked, note)

    recall["faiss IndexFlatIP, k=2"] = peer(faiss_top, 1)
    recall["PML precision_at_1"] = peer(pml_precision, 1)
    recall["OML knn + cmc@1"] = peer(oml_cmc, 1)
    if chunks:
        note = f"{chunks} chunks of {ANCESTOR_CHUNK} rows, extrapolated"
        share = len(table) / (chunks * ANCESTOR_CHUNK)
        recall["ancestor's argsort"] = scaled(lambda: ancestor_recall(table, labels, chunks), share, note)
    top["faiss IndexFlatIP, k=101"] = peer(faiss_top, NEAREST)
    top["PML P@1 + MAP@R, k=100"] = peer(pml_precision, NEAREST)
    top["OML knn + cmc, precision, map"] = peer(oml_cmc, NEAREST)
    return lanes


def lane_table(figures: dict[str, dict], limits: dict[str, float]) -> str:
    """One lane as Markdown: seconds, their spread, times the limits, peak memory, Recall@1."""
    rows = []
    for name, contender in figures.items():
        title = f"{name} ({contender['note']})" if contender["note"] else name
        times = [f"{contender['seconds'] / limit:.2f}" for limit in limits.values()]
        spread = "–".join(seconds_text(seconds) for seconds in contender["spread"])
        recall = "" if contender["value"] is None else f"{contender['value']:.6f}"
        rows.append([title, seconds_text(contender["seconds"]), spread, *times, f"{contender['peak_mb']:.0f}", recall])
    limit_titles = [f"× {name} product" for name in limits]
    return markdown(["", "seconds", "least–most", *limit_titles, "peak MB", "Recall@1"], rows)


def curve(sizes: list[int], width: int, rounds: int) -> list[dict]:
    """Ours over the number of rows: [{rows, lane: figures}]."""
    points = []
    for rows in sizes:
        table, labels = clusters(rows, width)
        lanes = {
            "Recall@1": lambda: ours_recall(table, labels, None),
            "100 nearest": lambda: ours_top(table, labels, 100, None),
        }
        points.append({"rows": rows, **contest(lanes, rounds)})
        print(f"{rows} rows done", flush=True)
    return points


def curve_table(points: list[dict]) -> str:
    rows = []
    for point in points:
        row = [f"{point['rows']:,}"]
        for lane in ("Recall@1", "100 nearest"):
            row.append(seconds_text(point[lane]["seconds"]))
            row.append(f"{point[lane]['peak_mb']:.0f}")
        rows.append(row)
    return markdown(["N", "Recall@1, s", "peak MB", "100 nearest, s", "peak MB"], rows)


def truth(text: str) -> bool:
    return {"True": True, "False": False}[text]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        default="60502x512,15000x2048",
        help="embeddings x dimensions (default: 60502x512, of SOP's test list, and 15000x2048)",
    )
    parser.add_argument("--curve", default="15000,30000", help="numbers of rows of the curve, or none")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender (default: 1)")
    parser.add_argument("--curve_rounds", type=int, default=1, help="and of each point of the curve (default: 1)")
    parser.add_argument(
        "--peer_share", type=int, default=30, help="peers answer one query in so many, 0: none (default: 30)"
    )
    parser.add_argument("--every_type", type=truth, default=False, help="ours in each type (default: False)")
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside it (default: 0)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
    try:
        measure(args)
    finally:
        for process in beside:
            process.kill()


def measure(args: argparse.Namespace) -> None:
    result = {"machine": machine(), "versions": versions(PACKAGES), "rounds": args.rounds, "sizes": {}}
    title = heading(args.rounds)
    if args.busy:
        title += f" Beside {args.busy} busy process(es)."
    parts = [title]
    for size in args.sizes.split(","):
        rows, width = map(int, size.split("x"))
        table, labels = clusters(rows, width)
        lanes = {}
        limits = {}  # seconds of the bare products, which come first
        for lane, entrants in contenders(table, labels, args.peer_share, args.every_type).items():
            lanes[lane] = contest(entrants, args.rounds)
            for name, contender in lanes[lane].items():
                if name.startswith("bare"):
                    limits[name.removeprefix("bare product, ")] = contender["seconds"]
            parts.append(f"### {lane}, N = {rows:,}, D = {width}\n\n{lane_table(lanes[lane], limits)}")
            print(parts[-1], flush=True)
        result["sizes"][size] = lanes
    if numbers(args.curve):
        result["curve"] = curve(numbers(args.curve), CURVE_WIDTH, args.curve_rounds)
        heads = f"### Ours over N, D = {CURVE_WIDTH}, {args.curve_rounds} round(s)"
        parts.append(f"{heads}\n\n{curve_table(result['curve'])}")
    write(args.output, "search_speed", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
