"""Pair losses: forward and backward beside the bare Gram matrix and the peers' losses.

    python benchmarks/pairs.py                                 # two minutes on 2 cores
    python benchmarks/pairs.py --sizes=160 --rounds=1
    python benchmarks/pairs.py --sizes=160 --compiled=contrastive,triplet_margin    # through torch.compile, too

512 dimensions, 4 images a label (triplets for the loss that takes them; 2 for npairs, of which its peer takes no more).
The bare Gram matrix is X X^T and the two products that carry a gradient back through it, with all threads, and once
more with one, which is what losses take for a small batch. Operations are what torch dispatches in a loss and its
gradient: each costs some microseconds, however small the batch is.

The least that a loss takes are the two products that it needs (the slopes of a pair are the same at both ends), one
exponential of the table between them, and rows scaled to length one, by the means of losses/. A miner of other
distances than the loss's needs a third product. `× least` says how far from that a loss of ours is.
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
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._contest import contest, heading, markdown, write
from core.device import choose_device
from engine.mining import build_miner
from engine.objective import Objective
from losses import LOSSES
from losses._rows import ScoreTable, carried
from losses._slopes import with_gradient
from losses._threads import one_thread_if_small
from losses._unit_vectors import through_scaling

WIDTH = 512
IMAGES = 4  # of a label
MINED = ("hard", "semihard", "distance_weighted")  # miners that the triplet loss is run with
# Whose distances are those of rows of length one, which triplet_margin's are not.
OTHER_DISTANCES = ("semihard", "distance_weighted")
CUBIC = ("OML TripletLossWithMiner + AllTripletsMiner", "PML SmoothAPLoss", "OML SurrogatePrecision")
# Images of a batch of which those peers may list all triples: 0.9 GB, at 12 KB each. One of 512 has ten times as many.
LARGEST_LIST = 160
# Batches that these have the memory for.
LARGEST = {
    "PML LiftedStructureLoss": 160,
    "PML MarginLoss": 1024,
    "PML FastAPLoss": 1024,
    "PML TripletMarginLoss + DistanceWeightedMiner": 1024,
}


def repeated(function: Callable, seconds: float = 0.2) -> Callable:
    """`function` as often as fills about so many seconds, its time being that of one."""
    function()
    began = time.perf_counter()
    function()
    times = max(1, round(seconds / (time.perf_counter() - began)))

    def run():
        for _ in range(times):
            value = function()
        return value

    run.scale = 1 / times
    run.operations = operations(function)
    return run


def operations(function: Callable) -> int:
    """How many operations torch dispatches in a call of the function."""
    with Counter() as counter:
        function()
    return counter.count


class Counter(TorchDispatchMode):
    """Counts the operations that torch dispatches while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def gradient(loss: Callable, rows: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    """A function that carries the loss's slope back to the rows."""

    def run():
        (slope,) = torch.autograd.grad(loss(rows, labels), rows)
        return slope.norm().item()

    return run


def gram(rows: torch.Tensor) -> Callable[[], None]:
    """A function that does the three products no pair loss can do without."""
    table = rows.detach()
    upstream = torch.rand(len(rows), len(rows))

    def run():
        torch.mm(table, table.T)
        torch.mm(upstream, table)
        torch.mm(upstream.T, table)

    return run


def with_one_thread(function: Callable) -> Callable:
    """The function, for which torch takes one thread."""

    def run():
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function()
        finally:
            torch.set_num_threads(before)

    return run


def least_loss(products: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Sum of exp(s_ij): what is left of a pair loss without its formula. 3 products: one table more, of which nothing
    is made."""

    def loss(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        everything = slice(0, len(rows))
        with torch.no_grad(), one_thread_if_small(rows.device, len(rows) ** 2):
            if products == 3:
                ScoreTable(rows).scores(everything)
            batch = ScoreTable(rows)
            batch.symmetric = True
            slopes = batch.scores(everything).exp_()
            total = slopes.sum()
            gradient = through_scaling(carried(slopes, batch), batch.directions, batch.lengths)
        return with_gradient(total, rows, gradient)

    return loss


def peers() -> dict[str, Callable[[], Callable]]:
    """{name: function that makes the loss}; PML's and OML's names."""

    def pml(name, miner=None, **options):
        def make():
            from pytorch_metric_learning import losses, miners

            loss = getattr(losses, name)(**options)
            if miner is None:
                return loss
            mine = getattr(miners, miner)()
            return lambda rows, labels: loss(rows, labels, mine(rows, labels))

        return make

    def oml(miner):
        def make():
            from oml import miners
            from oml.losses import TripletLossWithMiner

            return TripletLossWithMiner(margin=0.1, miner=getattr(miners, miner)())

        return make

    def surrogate_precision():
        from oml.losses.surrogate_precision import SurrogatePrecision

        return SurrogatePrecision(k=5)

    return {
        "PML NPairsLoss": pml("NPairsLoss"),
        "PML ContrastiveLoss": pml("ContrastiveLoss"),
        "PML MultiSimilarityLoss": pml("MultiSimilarityLoss"),
        "PML CircleLoss": pml("CircleLoss"),
        "PML SupConLoss": pml("SupConLoss"),
        "PML MarginLoss": pml("MarginLoss"),
        "PML LiftedStructureLoss": pml("LiftedStructureLoss"),
        "PML RankedListLoss": pml("RankedListLoss", margin=0.4, Tn=10.0),
        "PML TripletMarginLoss + BatchHardMiner": pml("TripletMarginLoss", "BatchHardMiner"),
        "PML TripletMarginLoss + DistanceWeightedMiner": pml("TripletMarginLoss", "DistanceWeightedMiner"),
        "OML TripletLossWithMiner + HardTripletsMiner": oml("HardTripletsMiner"),
        "OML TripletLossWithMiner + AllTripletsMiner": oml("AllTripletsMiner"),
        "PML FastAPLoss": pml("FastAPLoss"),
        "PML SmoothAPLoss": pml("SmoothAPLoss"),
        "OML SurrogatePrecision": surrogate_precision,
    }


def mined_triplets(miner: str) -> Callable:
    """The triplet loss over what a miner chooses."""
    mining = build_miner({}, "triplet_margin", {}, miner=miner)
    return Objective(torch.nn.Identity(), LOSSES["triplet_margin"](), miner=mining).compare


def contenders(size: int, largest_list: int = LARGEST_LIST, compiled: tuple[str, ...] = ()) -> dict[str, Callable]:
    """{name: function}: the bare products, every pair loss of ours, some with miners, the peers'.

    largest_list: images up to which the cubic peers take part. compiled: losses of ours that take part through
    torch.compile as well; how long the first call of each takes is printed.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(size, WIDTH, generator=generator)).requires_grad_()
    batches = {"pk": torch.arange(size) // IMAGES, "triplet": torch.tensor([0, 0, 1]).repeat(size // 3)}
    batches["siamese_pairs"] = torch.tensor([0, 0, 0, 1]).repeat(size // 4)
    couples = torch.arange(size) // 2
    batches["shuffled"] = couples  # an image and its text, row by row
    functions = {"bare Gram matrix": repeated(gram(rows))}
    functions["bare Gram matrix, one thread"] = repeated(with_one_thread(gram(rows)))
    for products in (2, 3):
        functions[f"least: {products} products"] = repeated(gradient(least_loss(products), rows, batches["pk"]))
    for name in LOSSES.names(stage="pair"):
        labels = batches[LOSSES.fact(name, "batch")]
        if name == "npairs":  # its peer takes two images of a label
            labels = couples
        leaf = rows[: len(labels)].detach().requires_grad_()
        functions[f"ours: {name}"] = repeated(gradient(LOSSES[name](), leaf, labels))
        if name in compiled:
            function = gradient(torch.compile(LOSSES[name]()), leaf, labels)
            began = time.perf_counter()
            function()
            print(f"compiled {name}: the first call took {time.perf_counter() - began:.1f} s", flush=True)
            functions[f"ours, compiled: {name}"] = repeated(function)
    for miner in MINED:
        functions[f"ours: triplet_margin + {miner}"] = repeated(gradient(mined_triplets(miner), rows, batches["pk"]))
    for name, make in peers().items():
        if name in CUBIC and size > largest_list:
            continue
        if size > LARGEST.get(name, size):
            continue
        try:
            loss = make()
        except ImportError as error:
            print(f"left out: {name} ({error})", flush=True)
            continue
        labels = couples if "NPairs" in name else batches["pk"]
        functions[name] = repeated(gradient(loss, rows, labels))
    return functions


def lane_table(figures: dict[str, dict]) -> str:
    """One size as Markdown: milliseconds, times the Gram matrix's, times the least of a loss of ours, operations,
    memory."""
    limit = figures["bare Gram matrix"]["seconds"]
    rows = []
    for name, figure in figures.items():
        spread = "–".join(f"{1000 * seconds:.1f}" for seconds in figure["spread"])
        milliseconds = f"{1000 * figure['seconds']:.1f}"
        times = f"{figure['seconds'] / limit:.2f}"
        of_least = f"{figure['seconds'] / figures[least_of(name)]['seconds']:.2f}" if name.startswith("ours") else ""
        rows.append([name, milliseconds, spread, times, of_least, figure["operations"], f"{figure['peak_mb']:.0f}"])
    return markdown(["", "ms", "least–most", "× Gram", "× least", "operations", "peak MB"], rows)


def least_of(name: str) -> str:
    """Which line is the least that a loss of ours takes."""
    return f"least: {3 if name.endswith(OTHER_DISTANCES) else 2} products"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="160,512,1024,4096", help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default: 5)")
    parser.add_argument(
        "--largest_list",
        type=int,
        default=LARGEST_LIST,
        help="images up to which peers that list all triples take part, at 12 KB each (default: 160)",
    )
    parser.add_argument("--compiled", default="", help="losses that take part through torch.compile as well")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    result = {"rounds": args.rounds, "sizes": {}}
    lanes = [heading(args.rounds)]
    for text in args.sizes.split(","):
        size = int(text)
        functions = contenders(size, args.largest_list, tuple(args.compiled.split(",")))
        figures = contest(functions, args.rounds)
        for name, figure in figures.items():
            figure["operations"] = functions[name].operations
        result["sizes"][size] = figures
        lanes.append(f"### Batch {size:,}, D = {WIDTH}\n\n{lane_table(figures)}")
        print(lanes[-1], flush=True)
    write(args.output, "pairs", result, "\n\n".join(lanes))


if __name__ == "__main__":
    main()
