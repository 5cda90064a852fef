"""Which type exact Recall@1 is counted in: what was chosen, and what that cost beside the best of the three.

    python benchmarks/product_types.py                              # a minute on 2 cores
    python benchmarks/product_types.py --sizes=5000x64,5000x512,15000x64,15000x512,15000x1024 --rounds=2
    python benchmarks/product_types.py --sizes=60000x512 --kinds=tight,hard --rounds=1
    python benchmarks/product_types.py --sizes=15000x512 --ks=1,10,100

Seconds are those of the CPU, all threads together, which other work on the machine moves little; the least of the
rounds counts. A last run is left to choose, whose seconds are with what that took. Each type's answers have to be
those of float32, or the run ends. What the choice knows: embeddings that fall apart into labels leave nothing in
doubt for int8, others more or less; so there are several kinds, the embeddings of a trained network as well as of
none.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
from torch.nn.functional import normalize

from benchmarks._contest import heading, markdown, seconds_text, write
from core.device import keep_freed_memory
from retrieval.best_positive import first_precision, in_doubt, positive_ranks
from retrieval.product_type import TYPES, multiplies_int8
from retrieval.query_gallery import QueryGallery
from retrieval.scores import Scores

SIZES = "5000x512,15000x128,15000x512"
NEAR_ENOUGH = 1.1  # what is chosen takes no more than this times the best
CATEGORIES = 12


def embeddings_of(kind: str, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings (N, D) float32, labels (N,)) of one of KINDS, the same at each call."""
    generator = torch.Generator().manual_seed(rows + width)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def of_labels(each: int) -> torch.Tensor:
        return torch.randperm(rows, generator=generator) % (rows // each)

    return KINDS[kind](rows, width, normal, of_labels)


def on_the_sphere(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """No label has anything in common."""
    return normalize(normal(rows, width)), of_labels(5)


def tight(
    rows: int, width: int, normal: Callable, of_labels: Callable, each: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """As a trained network places them: a label's images are far closer than any others."""
    labels = of_labels(each)
    return normalize(normal(rows // each, width)[labels] + 0.5 * normal(rows, width)), labels


def tight_of_fifty(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    return tight(rows, width, normal, of_labels, each=50)


def hard(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of a few categories, so wide that positives are about as close as the closest others at any width."""
    labels = of_labels(5)
    centres = normal(rows // 5, width) + normal(CATEGORIES, width)[torch.arange(rows // 5) % CATEGORIES]
    return normalize(centres[labels] + width**0.25 / 2 * normal(rows, width)), labels


def features(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """As a backbone's: none below 0, of all lengths."""
    labels = of_labels(5)
    lengths = 1 + normal(rows, 1).abs()
    return lengths * (normal(rows // 5, width)[labels] + normal(rows, width)).relu(), labels


def duplicates(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """Every second row is the one before it, of the same label."""
    table, labels = hard(rows, width, normal, of_labels)
    table[1::2] = table[::2][: len(table[1::2])]
    labels[1::2] = labels[::2][: len(labels[1::2])]
    return table, labels


def mislabelled(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """Duplicates of other labels: nothing is as close to a query as what is wrong."""
    table, labels = hard(rows, width, normal, of_labels)
    table[1::2] = table[::2][: len(table[1::2])]
    return table, labels


def one_label(rows: int, width: int, normal: Callable, of_labels: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    return normalize(normal(1, width) + normal(rows, width)), torch.zeros(rows, dtype=torch.int64)


KINDS = {
    "sphere": on_the_sphere,
    "tight": tight,
    "tight_of_fifty": tight_of_fifty,
    "hard": hard,
    "features": features,
    "duplicates": duplicates,
    "mislabelled": mislabelled,
    "one_label": one_label,
}


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def compare(kind: str, rows: int, width: int, ks: tuple[int, ...], rounds: int) -> dict:
    """One line of the table: {kind, size, recall, doubted, chosen, times, seconds: {type: least}, with the choice's}.

    Raises AssertionError where a type's answers are not float32's.
    """
    table, labels = embeddings_of(kind, rows, width)
    types = [dtype for dtype in reversed(TYPES) if dtype != torch.int8 or multiplies_int8()]
    seconds = {}
    expected = None
    for _ in range(rounds):
        for dtype in (*types, None):
            task = QueryGallery.of(table, labels)
            began = time.process_time()
            ranks = positive_ranks(task, ks, dtype=dtype)
            taken = time.process_time() - began
            seconds[dtype] = min(taken, seconds.get(dtype, taken))
            right = torch.stack([ranks < k for k in ks])
            expected = right if expected is None else expected
            assert torch.equal(right, expected), f"{kind}, {rows} x {width}: {dtype} answers otherwise than float32"
    task = QueryGallery.of(table, labels)
    scores = Scores(task)
    whole = seconds.pop(None)
    chosen = first_precision(task, scores, ks)
    return {
        "kind": kind,
        "size": f"{rows:,} x {width}",
        "recall": expected[0].double().mean().item(),
        "doubted": in_doubt(task, scores, ks).mean().item(),
        "chosen": named(chosen),
        "times": seconds[chosen] / min(seconds.values()),
        "seconds": {named(dtype): taken for dtype, taken in seconds.items()},
        "whole": whole,
    }


def table_of(lines: list[dict]) -> str:
    types = list(lines[0]["seconds"])
    columns = [
        "embeddings",
        "size",
        "Recall@1, %",
        "in doubt for int8",
        *types,
        "chosen",
        "× the best",
        "with choosing",
    ]
    rows = []
    for line in lines:
        taken = [seconds_text(line["seconds"][name]) for name in types]
        figures = [f"{100 * line['recall']:.1f}", f"{line['doubted']:.1f}"]
        chosen = [line["chosen"], f"{line['times']:.2f}", seconds_text(line["whole"])]
        rows.append([line["kind"], line["size"], *figures, *taken, *chosen])
    return markdown(columns, rows)


def sizes_named(text: str) -> list[tuple[int, int]]:
    return [tuple(map(int, size.split("x"))) for size in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help=f"embeddings x dimensions (default: {SIZES})")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of embeddings (default: all)")
    parser.add_argument("--ks", default="1", help="of Recall@k (default: 1)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (default: 1)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    keep_freed_memory()
    ks = tuple(map(int, args.ks.split(",")))
    lines = []
    for rows, width in sizes_named(args.sizes):
        for kind in args.kinds.split(","):
            lines.append(compare(kind, rows, width, ks, args.rounds))
            print(lines[-1], flush=True)
    times = [line["times"] for line in lines]
    worse = sum(more > NEAR_ENOUGH for more in times)
    text = (
        f"{heading(args.rounds, ('torch',))}\n\nSeconds of the CPU. The choice took more than {NEAR_ENOUGH} times the "
        f"best of the types in {worse} of {len(lines)} lines, {max(times):.2f} times at most.\n\n"
    )
    write(args.output, "product_types", {"ks": ks, "lines": lines}, text + table_of(lines))


if __name__ == "__main__":
    main()
