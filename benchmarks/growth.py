"""What grows how: seconds of every lane against its size, the exponent that fits, and the one that theory allows.

    python benchmarks/growth.py                    # a minute and a half on 2 cores
    python benchmarks/growth.py --lanes=search,heads --rounds=5
    python benchmarks/growth.py --draw             # the picture anew, of the figures that are there

Each size is timed `--rounds` times, sizes in turn; the least counts, since whatever disturbs only adds. The exponent
is the slope of log seconds over log size by least squares over the larger half of the sizes: small ones are overhead.
Written: growth.png beside this file, table and figures as every lane's. A lane is above its exponent where the slope
exceeds it by more than 0.15; a processor's cache that is left at one of the sizes makes as much.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import cv2
import numpy as np
import torch

from benchmarks._contest import heading, markdown, write
from benchmarks.head import step as head_step
from benchmarks.images import list_of
from benchmarks._jpegs import texture
from benchmarks.pairs import IMAGES, gradient
from benchmarks.search_speed import clusters, ours_recall, ours_top
from config.script import look_for_garbage_seldom
from core.device import choose_device
from data.dataset import RecordDataset
from data.image.modality import ImageModality
from data.image.transforms import TestTransform, TrainTransform
from data.lists import open_list
from data.pack import pack_list
from data.samplers import SAMPLERS, Sample, nearest_labels
from losses import LOSSES
from models import Embedder
from retrieval.index.index import Index

PICTURE = Path(__file__).with_name("growth.png")
SLACK = 0.15
WIDTH = 128
# Losses of rows that are pairs or triplets already: they compare no row with all others.
LINEAR = ("siamese", "triplet", "triplet_hinge")


class Curve(NamedTuple):
    """A lane over one of its sizes: make(size) -> the function that is timed; seconds grow at most as size^theory."""

    lane: str
    name: str
    size: str
    sizes: tuple[int, ...]
    theory: float
    make: Callable[[int], Callable]


def searches(folder: Path) -> Iterator[Curve]:
    def recall(rows: int, width: int = WIDTH) -> Callable:
        table, labels = clusters(rows, width)
        return lambda: ours_recall(table, labels, torch.float32)

    def top(rows: int) -> Callable:
        table, labels = clusters(rows, WIDTH)
        return lambda: ours_top(table, labels, 10, torch.float32)

    yield Curve("search", "Recall@1", "images", (2000, 4000, 8000, 16000), 2, recall)
    yield Curve("search", "10 nearest", "images", (2000, 4000, 8000, 16000), 2, top)
    yield Curve("search", "Recall@1", "numbers an image", (128, 256, 512, 1024), 1, lambda width: recall(4000, width))


def pair_losses(folder: Path) -> Iterator[Curve]:
    def make(name: str, size: int) -> Callable:
        rows = torch.nn.functional.normalize(torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(0)))
        kinds = {"triplet": torch.tensor([0, 0, 1]).repeat(size // 3)}
        kinds["siamese_pairs"] = torch.tensor([0, 0, 0, 1]).repeat(size // 4)
        kinds["shuffled"] = torch.arange(size) // 2
        labels = kinds.get(LOSSES.fact(name, "batch"), torch.arange(size) // IMAGES)
        return gradient(LOSSES[name](), rows[: len(labels)].requires_grad_(), labels)

    for name in LOSSES.names(stage="pair"):
        theory = 1 if name in LINEAR else 2
        yield Curve(
            "pairs", name, "images of a batch", (192, 384, 768, 1536), theory, lambda n, name=name: make(name, n)
        )


def heads(folder: Path) -> Iterator[Curve]:
    def make(name: str, classes: int, batch: int = 64) -> Callable:
        facts = {"embedding_size": WIDTH, "num_classes": classes}
        loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)})
        rows = torch.randn(batch, WIDTH, requires_grad=True)
        labels = torch.arange(batch) * 7 % classes
        return lambda: head_step(loss, rows, labels)

    for name in LOSSES.names(stage="elem"):
        sizes = (2000, 4000, 8000, 16000)
        yield Curve("heads", name, "classes", sizes, 1, lambda n, name=name: make(name, n))
    yield Curve("heads", "arcmargin", "images of a batch", (64, 128, 256, 512), 1, lambda n: make("arcmargin", 8000, n))


def lists(folder: Path) -> Iterator[Curve]:
    """A csv of texts read and packed, an epoch's batches drawn by every sampler."""

    def written(rows: int) -> Path:
        file = folder / f"{rows}.csv"
        if not file.exists():
            lines = [f"{row % 1000},thing number {row},train" for row in range(rows)]
            file.write_text("\n".join(["label,text,split", *lines]))
        return file

    def read(rows: int) -> Callable:
        file = written(rows)
        return lambda: open_list(file, folder, "train")

    def packed(rows: int) -> Callable:
        file = written(rows)
        return lambda: pack_list(str(file), folder / "packed.columns", str(folder), overwrite=True)

    def opened(rows: int) -> Callable:
        place = folder / f"{rows}.columns"
        pack_list(str(written(rows)), place, str(folder), overwrite=True)
        return lambda: open_list(place, folder, "train")

    def epoch(name: str, labels: int) -> Callable:
        facts = {"labels": np.arange(6 * labels) % labels, "batch_size": 96, "samples_each_class": 4}
        facts["categories"] = np.arange(labels) % 16
        sampler = SAMPLERS[name](**{fact: facts[fact] for fact in SAMPLERS.requirements(name)})
        if name == "neighbours":
            sampler.neighbours = nearest(labels, sampler.labels_in_batch - 1)
        # A batch is let go before the next one, as training does.
        return lambda: deque(islice(sampler.starting(seed=0), len(sampler)), maxlen=0)

    def nearest(labels: int, count: int = 14) -> np.ndarray:
        points = np.random.default_rng(0).standard_normal((labels, 16)).astype(np.float32)
        return nearest_labels(points, count)

    sizes = (5000, 10_000, 20_000, 40_000)
    yield Curve("lists", "read a csv", "rows", sizes, 1, read)
    yield Curve("lists", "pack a csv", "rows", sizes, 1, packed)
    yield Curve("lists", "open a packed list", "rows", sizes, 1, opened)
    sizes = (1000, 2000, 4000, 8000)
    for name in SAMPLERS.names():
        yield Curve("lists", name, "labels, an epoch", sizes, 1, lambda labels, name=name: epoch(name, labels))
    yield Curve("lists", "labels near each other", "labels", sizes, 2, lambda labels: lambda: nearest(labels))


def images(folder: Path) -> Iterator[Curve]:
    """A file of noise with pixels on each side: read, decoded, cut and resized to 224 pixels."""

    def written(kind: str, side: int) -> str:
        path = folder / f"{side}.{kind}"
        if not path.exists():
            pixels = np.clip(128 + texture(np.random.default_rng(side), side, side, 6), 0, 255).astype(np.uint8)
            cv2.imwrite(str(path), pixels)
        return str(path)

    def cut(modality: ImageModality, kind: str, side: int, count: int = 1) -> Callable:
        dataset = RecordDataset(list_of([written(kind, side)] * count), modality)
        return lambda: [dataset[Sample(row, row)] for row in range(count)]

    train = ImageModality(TrainTransform(224, 224, 0, ("crop", "flip"), (0.2, 1.0)), "opencv")
    test = ImageModality(TestTransform(224, 224, 256))
    sizes = (256, 512, 1024, 2048)
    for kind in ("jpg", "png", "webp"):
        yield Curve(
            "images", f"crop of a {kind}", "pixels a side", sizes, 2, lambda side, kind=kind: cut(train, kind, side)
        )
    yield Curve("images", "a jpg to test", "pixels a side", sizes, 2, lambda side: cut(test, "jpg", side))
    sizes = (8, 16, 32, 64)
    yield Curve("images", "crops of jpgs", "images of a batch", sizes, 1, lambda count: cut(train, "jpg", 512, count))


def indexes(folder: Path) -> Iterator[Curve]:
    def data(items: int, name: str) -> tuple:
        rows = np.random.default_rng(items).standard_normal((items, 64)).astype(np.float32)
        return rows, [f"/{name}/{number}.jpg" for number in range(items)], None

    def built(items: int) -> Path:
        place = folder / f"{items}.index"
        if not place.exists():
            Index.build(place, *data(items, "photos"), None)
        return place

    def opened(items: int) -> Callable:
        place = built(items)
        return lambda: len(Index.open(place))

    def added(items: int) -> Callable:
        index, counter = Index.open(built(items)), iter(range(10**9))
        return lambda: index.add(*data(50, f"{items} {next(counter)}"))

    def asked(items: int) -> Callable:
        index, queries = Index.open(built(items)), torch.randn(16, 64)
        return lambda: index.search(queries, 10)

    sizes = (4000, 8000, 16000, 32000)
    yield Curve("index", "open", "items", sizes, 1, opened)
    yield Curve("index", "16 queries", "items", sizes, 1, asked)
    yield Curve("index", "add 50", "items", sizes, 1, added)


def networks(folder: Path) -> Iterator[Curve]:
    """Images a second are the same for any number of images: seconds grow as they do."""
    torch.manual_seed(0)
    network = Embedder("ResNet18")

    def pixels(images: int, side: int = 64) -> torch.Tensor:
        return torch.randint(256, (images, 3, side, side), dtype=torch.uint8)

    def trained(images: int) -> Callable:
        batch = pixels(images)
        return lambda: network.train()(batch).square().sum().backward()

    def embedded(batch: torch.Tensor) -> Callable:
        @torch.inference_mode()
        def run() -> None:
            network.eval()(batch)

        return run

    sizes = (8, 16, 32, 64)
    yield Curve("network", "forward, backward", "images of a batch", sizes, 1, trained)
    yield Curve("network", "embed", "images of a batch", sizes, 1, lambda images: embedded(pixels(images)))
    yield Curve("network", "embed 8", "pixels a side", (64, 96, 128, 192), 2, lambda side: embedded(pixels(8, side)))


LANES = {
    "search": searches,
    "pairs": pair_losses,
    "heads": heads,
    "lists": lists,
    "images": images,
    "index": indexes,
    "network": networks,
}


def least_seconds(curve: Curve, rounds: int) -> list[float]:
    """Of each size, the sizes in turn in each round, after a call to warm up."""
    functions = [curve.make(size) for size in curve.sizes]
    least = [math.inf] * len(functions)
    for turn in range(rounds + 1):
        for place, function in enumerate(functions):
            # A clock of microseconds, and threads that have to wake, want some milliseconds.
            times = 1 if turn == 0 else max(1, min(50, round(0.01 / least[place])))
            began = time.perf_counter()
            for _ in range(times):
                function()
            seconds = (time.perf_counter() - began) / times
            # The first call is kept only to know how often the others are to be made.
            least[place] = seconds if turn < 2 else min(least[place], seconds)
    return least


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope over the larger half of the sizes."""
    half = len(sizes) // 2 - 1 if len(sizes) > 3 else 0
    return float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])


def draw(figures: list[dict], path: Path) -> None:
    """One part a lane and kind of size, both axes in powers, and a dotted line of what theory allows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = list(dict.fromkeys((figure["lane"], figure["size"]) for figure in figures))
    columns = 3
    lines = -(-len(parts) // columns)
    sheet, axes = pyplot.subplots(lines, columns, figsize=(15, 4.6 * lines), layout="constrained")
    for axis in axes.flat[len(parts) :]:
        axis.axis("off")
    for axis, part in zip(axes.flat, parts):
        own = [figure for figure in figures if (figure["lane"], figure["size"]) == part]
        colours = pyplot.get_cmap("turbo")(np.linspace(0.05, 0.95, len(own)))
        for figure, colour in zip(own, colours):
            label = f"{figure['name']}: {figure['exponent']:.2f} of {figure['theory']:g}"
            axis.plot(figure["sizes"], figure["seconds"], "o-", color=colour, label=label, markersize=3, linewidth=1.2)
        # Theory's lines start where the slowest of its kind does.
        for theory in sorted({figure["theory"] for figure in own}):
            top = max((figure for figure in own if figure["theory"] == theory), key=lambda one: one["seconds"][0])
            sizes = np.array(top["sizes"], float)
            line = 1.5 * top["seconds"][0] * (sizes / sizes[0]) ** theory
            axis.plot(sizes, line, ":", color="grey", label=f"size^{theory:g}")
        axis.set(xscale="log", yscale="log", xlabel=part[1], ylabel="seconds", title=f"{part[0]}, over {part[1]}")
        ticks = own[0]["sizes"]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        # Under the axis, where it hides no line.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), fontsize=7, ncols=3 if len(own) > 3 else 2)
    sheet.savefig(path, dpi=80)
    pyplot.close(sheet)


def table(figures: list[dict]) -> str:
    """Each curve, its seconds at both ends and its exponents; those above theirs are named."""
    rows = []
    for figure in figures:
        ends = [f"{figure['sizes'][end]:,}: {1000 * figure['seconds'][end]:.3g}" for end in (0, -1)]
        above = "above" if figure["exponent"] > figure["theory"] + SLACK else ""
        name = f"{figure['lane']}: {figure['name']}, over {figure['size']}"
        rows.append([name, *ends, f"{figure['exponent']:.2f}", f"{figure['theory']:g}", above])
    return markdown(["", "ms at the least", "ms at the most", "exponent", "allowed", "above it"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", default=",".join(LANES), help=f"some of {', '.join(LANES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size (default: 3)")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw what was measured")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    parser.add_argument("--picture", default=str(PICTURE), help="file of the picture (default: beside this file)")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    look_for_garbage_seldom()  # as scripts do: it takes longer than what is timed
    kept = Path(args.output, "growth.json")
    figures = json.loads(kept.read_text()) if kept.is_file() else []
    lanes = [] if args.draw else args.lanes.split(",")
    # Lanes that are not measured now stand as they were.
    figures = [figure for figure in figures if figure["lane"] not in lanes]
    with tempfile.TemporaryDirectory() as folder:
        for lane in lanes:
            for curve in LANES[lane](Path(folder)):
                seconds = least_seconds(curve, args.rounds)
                facts = {name: value for name, value in curve._asdict().items() if name != "make"}
                figures.append({**facts, "seconds": seconds, "exponent": exponent(list(curve.sizes), seconds)})
    figures.sort(key=lambda figure: list(LANES).index(figure["lane"]))
    draw(figures, Path(args.picture))
    if args.draw:
        return
    picture = "![Seconds over size, both in powers](growth.png)"
    write(args.output, "growth", figures, f"{heading(args.rounds)}\n\n{picture}\n\n{table(figures)}")


if __name__ == "__main__":
    main()
