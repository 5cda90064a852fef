"""The class head: forward and backward of arcmargin beside its three products and the peers' ArcFace, and its kin.

    python benchmarks/head.py                                  # six minutes on 2 cores
    python benchmarks/head.py --sizes=5000x128 --rounds=1
    python benchmarks/head.py --losses=all --sizes=11318x512   # every other class loss beside its peer

Batch 256. A size is classes x dimensions. Memory is what a step takes above the weights and their gradient. A peer is
given no more than --peer_classes classes, and its seconds are multiplied: they are proportional to the classes.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks._contest import contest, heading, markdown, scaled, seconds_text, write
from core.device import choose_device, has_bfloat16
from losses import LOSSES, ArcMarginLoss

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


# Name of a loss: its options, the peer that computes the same number, and that one's options.
PEERS = {
    "cosface": ({}, "PML CosFaceLoss", {}),
    "norm_softmax": ({}, "PML NormalizedSoftmaxLoss", {}),
    "subcenter_arcmargin": (
        {"arc_scale": SCALE, "arc_margin": MARGIN},
        "PML SubCenterArcFaceLoss",
        {"scale": SCALE, "margin": math.degrees(MARGIN)},
    ),
    "proxy_anchor": ({}, "PML ProxyAnchorLoss", {}),
    "proxy_nca": ({}, "PML ProxyNCALoss", {}),
    "soft_triple": ({}, "PML SoftTripleLoss", {}),
    "mlp_arcmargin": (
        {"arc_scale": SCALE, "arc_margin": MARGIN},
        "OML ArcFaceLossWithMLP",
        {"s": SCALE, "m": MARGIN},
    ),
    "arcmargin, label_smoothing=0.1": (
        {"arc_scale": SCALE, "arc_margin": MARGIN, "label_smoothing": 0.1},
        "OML ArcFaceLoss",
        {"s": SCALE, "m": MARGIN, "smoothing_epsilon": 0.1},
    ),
}


def peer_of(name: str, classes: int, width: int) -> nn.Module:
    """The peer's loss of that line of PEERS."""
    _, peer, options = PEERS[name]
    package, kind = peer.split()
    if package == "PML":
        from pytorch_metric_learning import losses

        return getattr(losses, kind)(num_classes=classes, embedding_size=width, **options)
    from oml.losses import arcface

    if kind == "ArcFaceLossWithMLP":
        options = {**options, "mlp_features": [width, width]}
    return getattr(arcface, kind)(in_features=width, num_classes=classes, **options)


def pair(name: str, classes: int, width: int) -> dict[str, Callable]:
    """{loss: function} of one of ours and its peer, on the same batch."""
    rows = torch.randn(BATCH, width, requires_grad=True)
    labels = torch.randint(classes, (BATCH,), generator=torch.Generator().manual_seed(0))
    options, peer, _ = PEERS[name]

    @functools.cache
    def ours() -> nn.Module:
        return LOSSES[name.split(",")[0]](embedding_size=width, num_classes=classes, **options)

    @functools.cache
    def theirs() -> nn.Module:
        return peer_of(name, classes, width)

    return {name: lambda: step(ours(), rows, labels), peer: lambda: step(theirs(), rows, labels)}


def kin_row(figures: dict[str, dict]) -> list[str]:
    """A line of the table of other losses: milliseconds and megabytes of ours and of its peer."""
    cells = []
    for name, figure in figures.items():
        cells.append([name, f"{1000 * figure['seconds']:.0f}", f"{figure['peak_mb']:.0f}"])
    if len(cells) == 1:
        return [cells[0][0], "not installed", *cells[0][1:], "", "", ""]
    ours, theirs = cells
    ratio = figures[theirs[0]]["seconds"] / figures[ours[0]]["seconds"]
    return [ours[0], theirs[0], ours[1], theirs[1], f"{ratio:.2f}", ours[2], theirs[2]]


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

    def in_bfloat16():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run(ours, classes)

    return {
        "three products": floor,
        "ours": lambda: run(ours, classes),
        **({"ours, --precision=bf16": in_bfloat16} if has_bfloat16() else {}),
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


def kin_table(size: str, names: list[str], rounds: int, result: dict[str, dict]) -> str:
    """Each of these losses beside its peer at one size, as Markdown; figures go into `result`."""
    classes, width = (int(number) for number in size.split("x"))
    result[size] = {}
    rows = []
    for name in names:
        entrants = pair(name, classes, width)
        contest(entrants, 1)  # the losses are made
        result[size][name] = contest(entrants, rounds)
        rows.append(kin_row(result[size][name]))
    columns = ["loss", "peer", "ms", "peer's ms", "peer / ours", "peak MB", "peer's peak MB"]
    return f"### {classes:,} classes, D = {width}, batch {BATCH}\n\n{markdown(columns, rows)}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="11318x2048,100000x512,1000000x512", help="classes x dimensions")
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each contender (default: 5), after one to warm up"
    )
    parser.add_argument("--losses", default="arcmargin", help="arcmargin, all others, or some of their names by ;")
    parser.add_argument("--peer_classes", type=int, default=100_000, help="most classes a peer is given")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    result = {"rounds": args.rounds, "sizes": {}}
    lanes = [heading(args.rounds)]
    if args.losses != "arcmargin":
        chosen = list(PEERS) if args.losses == "all" else args.losses.split(";")
        for size in args.sizes.split(","):
            lanes.append(kin_table(size, chosen, args.rounds, result["sizes"]))
            print(lanes[-1], flush=True)
        write(args.output, "head_losses", result, "\n\n".join(lanes))
        return
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
