"""The class head: forward and backward of arcmargin beside its three products and the peers' ArcFace.

    python benchmarks/head.py                                  # six minutes on 2 cores
    python benchmarks/head.py --sizes=5000x128 --rounds=1

Batch 256. A size is classes x dimensions. Memory is what a step takes above the weights and their gradient. A peer is
given no more than --peer_classes classes, and its seconds are multiplied: they are proportional to the classes.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.contest import contest, heading, markdown, scaled, seconds_text, write
from core.device import choose_device
from losses import ArcMarginLoss

BATCH = 256
SCALE = 30.0
MARGIN = 0.5


def step(loss: nn.Module, rows: torch.Tensor, labels: torch.Tensor) -> float:
    """Gradients of one batch to embeddings and weights; returns the loss."""
    for parameter in loss.parameters():
        parameter.grad = None
    rows.grad = None
    value = loss(rows, labels)
    value.backward()
    return value.item()


def products(weight: torch.Tensor, rows: torch.Tensor, slopes: torch.Tensor) -> None:
    """The three products no head can do without: scores, gradient to the rows, gradient to the weights."""
    torch.mm(rows, weight.T, out=slopes)
    slopes @ weight
    slopes.T @ rows


class PlainArcFace(ArcMarginLoss):
    """The same loss by autograd over all scores at once."""

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(embeddings) @ F.normalize(self.weight).T
        own = labels[:, None]
        with_margin = cosines.scatter(1, own, self.add_margin(cosines.gather(1, own)))
        return F.cross_entropy(self.arc_scale * with_margin, labels)


def pml_loss(classes: int, width: int, margin: float = MARGIN) -> nn.Module:
    from pytorch_metric_learning.losses import ArcFaceLoss

    return ArcFaceLoss(classes, width, margin=180 * margin / torch.pi, scale=SCALE)


def oml_loss(classes: int, width: int, margin: float = MARGIN) -> nn.Module:
    from oml.losses.arcface import ArcFaceLoss

    return ArcFaceLoss(in_features=width, num_classes=classes, m=margin, s=SCALE)


def contenders(classes: int, width: int, peer_classes: int) -> dict[str, Callable]:
    """{name: function}; all losses are made the first time they run, which the first round pays for."""
    rows = torch.randn(BATCH, width, requires_grad=True)
    labels = torch.randint(classes, (BATCH,), generator=torch.Generator().manual_seed(0))
    fewer = min(classes, peer_classes)
    note = ""
    if fewer < classes:
        note = f"{fewer:,} classes, seconds × {classes / fewer:g}"

    @functools.cache
    def made(build, count):
        return build(count, width)

    def run(build, count):
        return step(made(build, count), rows, labels % count)

    def tables(count, width):
        return torch.randn(count, width), torch.empty(BATCH, count)

    def floor():
        weight, slopes = made(tables, classes)
        products(weight, rows.detach(), slopes)

    def ours(count, width):
        return ArcMarginLoss(width, count, SCALE, MARGIN)

    def plain(count, width):
        return PlainArcFace(width, count, SCALE, MARGIN)

    return {
        "three products": floor,
        "ours": lambda: run(ours, classes),
        "all scores, autograd": scaled(lambda: run(plain, fewer), classes / fewer, note),
        "PML ArcFaceLoss": scaled(lambda: run(pml_loss, fewer), classes / fewer, note),
        "OML ArcFaceLoss": scaled(lambda: run(oml_loss, fewer), classes / fewer, note),
    }


def lane_table(figures: dict[str, dict], weights_mb: float) -> str:
    """One size as Markdown: milliseconds, times the products, times ours, memory above weights and gradient."""
    rows = []
    limit = figures["three products"]["seconds"]
    ours = figures["ours"]["seconds"]
    for name, figure in figures.items():
        title = name
        extra = f"{max(0, figure['peak_mb'] - weights_mb):.0f}"
        if figure["note"]:
            title = f"{name} ({figure['note']})"
        if figure["note"] or name == "three products":
            extra = ""  # the memory of other work than a step over all classes
        spread = "–".join(seconds_text(seconds) for seconds in figure["spread"])
        times = [f"{figure['seconds'] / limit:.2f}", f"{figure['seconds'] / ours:.2f}"]
        rows.append([title, seconds_text(figure["seconds"]), spread, *times, extra])
    return markdown(["", "seconds", "least–most", "× three products", "× ours", "extra MB"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="11318x2048,100000x512,1000000x512", help="classes x dimensions")
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each contender (default: 5), after one to warm up"
    )
    parser.add_argument("--peer_classes", type=int, default=100_000, help="most classes a peer is given")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    result = {"rounds": args.rounds, "sizes": {}}
    lanes = [heading(args.rounds)]
    for size in args.sizes.split(","):
        classes, width = (int(number) for number in size.split("x"))
        entrants = contenders(classes, width, args.peer_classes)
        contest(entrants, 1)  # the losses are made
        figures = contest(entrants, args.rounds)
        result["sizes"][size] = figures
        weights_mb = classes * width * 4 / 2**20
        lanes.append(f"### {classes:,} classes, D = {width}, batch {BATCH}\n\n{lane_table(figures, weights_mb)}")
        print(lanes[-1], flush=True)
    write(args.output, "head", result, "\n\n".join(lanes))


if __name__ == "__main__":
    main()
