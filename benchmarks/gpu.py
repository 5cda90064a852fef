"""A GPU: exact search beside faiss on the card, pair losses, the class head, training beside timm; absolute figures.

    python benchmarks/gpu.py                                   # two minutes on one card
    python benchmarks/gpu.py --device=cpu --networks=ResNet18:resnet18:32:8 --rows=2000 --classes=1000 --rounds=1

A network is NAME:TIMM'S NAME:PIXELS:BATCH. Batches lie in the host's memory, so that a step includes their way to the
card. timm's loop is that of its train script: cross-entropy, SGD, with --amp and --channels-last where a row says so.
Seconds are those of --steps steps between two waits for the device. On a CPU it shows that it runs, and no more.
"""

import argparse
import contextlib
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch

from benchmarks._contest import machine, markdown, versions, write
from benchmarks.head import BATCH, products, step
from benchmarks.pairs import IMAGES
from benchmarks.search_speed import clusters
from core.device import choose_device, choose_precision
from core.errors import InputError
from core.slices import search_memory
from engine.learner import Learner
from engine.objective import build_objective
from engine.optimiser import build_optimiser
from engine.step import backward, clip_gradient, update
from losses import LOSSES, ArcMarginLoss
from models import Embedder, fast_model
from retrieval.best_positive import positive_ranks
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

NETWORKS = "ResNet50:resnet50:224:128,timm:vit_small_patch16_224:vit_small_patch16_224:224:128"
CLASSES = 1000  # of the networks that are trained
WIDTH = 512
NEAREST = 100
PACKAGES = ("torch", "timm", "faiss-gpu", "faiss-gpu-cuvs", "cuvs")


def wait(device):
    """Until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def raced(contenders, rounds, device, times=1):
    """{name: {"seconds": median of one call, "spread": [least, most], "peak_mb": most on the card}}.

    contenders: {name: function()}, one after the other in each round, each `times` times behind a call that warms up.
    """
    found = {name: [] for name in contenders}
    peaks = dict.fromkeys(contenders, 0.0)
    for _ in range(rounds):
        for name, function in contenders.items():
            function()
            wait(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            for _ in range(times):
                function()
            wait(device)
            found[name].append((time.perf_counter() - began) / times)
            if device.type == "cuda":
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() / 2**20)
    return {
        name: {"seconds": statistics.median(taken), "spread": [min(taken), max(taken)], "peak_mb": peaks[name]}
        for name, taken in found.items()
    }


def host_batch(pixels, batch, device):
    """uint8 images (B, 3, H, W) and labels (B,) on the host, where a card fetches them without the processor."""
    images = torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (batch,))
    if device.type == "cuda":
        return images.pin_memory(), labels.pin_memory()
    return images, labels


def our_step(network, precision, images, labels, device):
    """A function that does a whole step of ours, with arcmargin."""
    torch.manual_seed(0)
    model = Embedder(network)
    loss = ArcMarginLoss(model.embedding_size, CLASSES)
    objective = build_objective(model, loss, device).train()
    learner = Learner(objective, build_optimiser(model, loss, lr=1e-4), device, precision)

    def run():
        learner.optimiser.zero_grad(set_to_none=True)
        backward(learner, images, labels)
        clip_gradient(learner)
        update(learner)

    return run


def timm_step(network, amp, images, labels, device):
    """A function that does a step of timm's train script; amp: with --amp --amp-dtype=bfloat16 --channels-last."""
    from timm import create_model
    from timm.optim import create_optimizer_v2

    torch.manual_seed(0)
    layout = torch.channels_last if amp else torch.contiguous_format
    model = create_model(network, num_classes=CLASSES).to(device, memory_format=layout).train()
    optimiser = create_optimizer_v2(model, opt="sgd", lr=1e-4, momentum=0.9, weight_decay=1e-4)
    mean, std = (torch.full((1, 3, 1, 1), value, device=device) for value in (116.0, 58.0))

    def run():
        # As timm's prefetcher has them: bytes cross, floats are made on the card.
        inputs = images.to(device, non_blocking=True).float().sub_(mean).div_(std).contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16) if amp else contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(model(inputs), labels.to(device, non_blocking=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run


def training(text, rounds, steps, device):
    """(title, rows of the table) of one network's training."""
    network, peer, pixels, batch = text.rsplit(":", 3)
    images, labels = host_batch(int(pixels), int(batch), device)
    auto = choose_precision("auto", device)
    figures = raced(
        {
            "timm, bf16, channels_last": timm_step(peer, True, images, labels, device),
            "ours, --precision=fp32": our_step(network, "fp32", images, labels, device),
            f"ours, --precision=auto ({auto})": our_step(network, auto, images, labels, device),
        },
        rounds,
        device,
        steps,
    )
    with_speed(figures, int(batch))
    return f"Training {network}, {pixels} px, batch {batch}", figures


def with_speed(figures, images):
    """The figures with images a second beside the seconds that so many took."""
    for figure in figures.values():
        figure["images_a_second"] = images / figure["seconds"]
    return figures


def inference(text, rounds, steps, device):
    """(title, figures) of embedding a batch, in all precisions."""
    network, _, pixels, batch = text.rsplit(":", 3)
    images, _ = host_batch(int(pixels), int(batch), device)

    def embedding(precision):
        torch.manual_seed(0)
        model = fast_model(Embedder(network).eval().to(device), precision, "torch", (3, int(pixels), int(pixels)))

        @torch.inference_mode()
        def run():
            return model(images.to(device, non_blocking=True))

        return run

    precisions = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    contenders = {f"--precision={precision}": embedding(precision) for precision in precisions}
    figures = with_speed(raced(contenders, rounds, device, steps), int(batch))
    return f"Embedding by {network}, {pixels} px, batch {batch}", figures


def plain_search(table, k):
    """A function that finds the k best of each row by the product of some rows with all and torch's topk."""

    def run():
        for part in table.split(4096):
            (part @ table.T).topk(k)

    return run


def faiss_search(table, k):
    """The same by faiss on the card, where it is installed, made for GPUs: {name: function()}."""
    try:
        import faiss

        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), WIDTH)
    except (ImportError, AttributeError):
        return {}
    rows = table.cpu().numpy()
    index.add(rows)
    return {f"faiss GpuIndexFlatIP, k={k}": lambda: index.search(rows, k)}


def one_against_rest(rows, device):
    """A QueryGallery of so many made-up embeddings on the device."""
    table, labels = clusters(rows, WIDTH)
    return QueryGallery.of(table.to(device), labels)


def evaluation(rows, rounds, device):
    """(title, figures) of exact Recall@1, each image against all others, beside the bare product."""
    query_gallery = one_against_rest(rows, device)
    table = query_gallery.gallery_table
    memory = search_memory(device.type)

    def bare():
        for part in table.split(4096):
            part @ table.T

    contenders = {
        "bare product, float32": bare,
        "product and topk, float32, k=2": plain_search(table, 2),
        "ours": lambda: positive_ranks(query_gallery, (1,), memory=memory),
        **faiss_search(table, 2),
    }
    return f"Exact Recall@1, N = {rows:,}, D = {WIDTH}", raced(contenders, rounds, device)


def nearest(rows, rounds, device):
    """(title, figures) of the exact nearest of each image."""
    query_gallery = one_against_rest(rows, device)
    table = query_gallery.gallery_table
    memory = search_memory(device.type)
    contenders = {
        f"product and topk, float32, k={NEAREST + 1}": plain_search(table, NEAREST + 1),
        "ours": lambda: search(query_gallery, NEAREST, memory=memory),
        **faiss_search(table, NEAREST + 1),
    }
    return f"The {NEAREST} nearest, N = {rows:,}, D = {WIDTH}", raced(contenders, rounds, device)


def pairs(rows, rounds, device):
    """(title, figures) of each loss of pairs and its gradient, beside the bare Gram matrix."""
    embeddings = torch.nn.functional.normalize(torch.randn(rows, WIDTH)).to(device).requires_grad_()
    slopes = torch.ones(rows, rows, device=device)
    on_host = torch.arange(rows) // IMAGES
    labels = on_host.to(device)
    contenders = {"bare Gram matrix": lambda: (embeddings @ embeddings.T).backward(slopes)}
    for name in LOSSES.names():
        if LOSSES.requirements(name) or name == "triplet":  # those of classes; one that takes triplets
            continue
        loss = LOSSES[name]().to(device)
        wanted = on_host if getattr(loss, "reads_labels", False) else labels
        contenders[name] = lambda loss=loss, wanted=wanted: loss(embeddings, wanted).backward()
    return f"Pair losses, batch {rows:,}, D = {WIDTH}", raced(contenders, rounds, device, times=5)


def head(classes, rounds, device):
    """(title, figures) of a class loss of that many classes beside its three products."""
    weight = torch.randn(classes, WIDTH, device=device)
    slopes = torch.empty(BATCH, classes, device=device)
    rows = torch.randn(BATCH, WIDTH, device=device, requires_grad=True)
    labels = torch.randint(classes, (BATCH,)).to(device)
    loss = ArcMarginLoss(WIDTH, classes).to(device)
    contenders = {
        "three products": lambda: products(weight, rows.detach(), slopes),
        "ours": lambda: step(loss, rows, labels),
    }
    return f"Class head, {classes:,} classes, D = {WIDTH}, batch {BATCH}", raced(contenders, rounds, device)


def lane_table(figures):
    first = next(iter(figures.values()))["seconds"]
    rows = []
    for name, figure in figures.items():
        spread = "–".join(f"{1000 * seconds:.2f}" for seconds in figure["spread"])
        speed = f"{figure['images_a_second']:.0f}" if "images_a_second" in figure else ""
        times = f"{figure['seconds'] / first:.2f}"
        median = f"{1000 * figure['seconds']:.2f}"
        rows.append([name, median, spread, times, speed, f"{figure['peak_mb']:.0f}"])
    return markdown(["", "ms", "least–most, ms", "× first row", "images/s", "peak MB on the card"], rows)


def open_device(name):
    """The device of that name. Raises InputError where there is no such GPU."""
    if name == "cpu":
        return choose_device(use_gpu=False)
    if not torch.cuda.is_available():
        raise InputError("torch sees no GPU here; --device=cpu shows at small sizes that the benchmark runs")
    return choose_device(use_gpu=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument("--networks", default=NETWORKS, help=f"comma-separated (default: {NETWORKS})")
    parser.add_argument("--rows", type=int, default=60_502, help="embeddings that are searched (default: those of SOP)")
    parser.add_argument("--pair_rows", default="160,1024", help="batches of the pair losses (default: 160,1024)")
    parser.add_argument("--classes", type=int, default=1_000_000, help="of the head (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a run (default: 20)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    try:
        device = open_device(args.device)
    except InputError as error:
        sys.exit(str(error))
    card = machine()
    if device.type == "cuda":
        card = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    packages = ", ".join(f"{name} {number}" for name, number in versions(PACKAGES).items())
    parts = [f"{card}; {packages}; medians of {args.rounds} rounds."]
    result = {"card": card, "lanes": {}}
    networks = args.networks.split(",")
    lanes = [partial(evaluation, args.rows), partial(nearest, args.rows)]
    lanes += [partial(pairs, int(rows)) for rows in args.pair_rows.split(",")]
    lanes += [partial(head, args.classes)]
    lanes = [partial(lane, args.rounds, device) for lane in lanes]
    for timed in (training, inference):
        lanes += [partial(timed, network, args.rounds, args.steps, device) for network in networks]
    # What is there is kept where a lane breaks off, or somebody stops it.
    try:
        for lane in lanes:
            title, figures = lane()
            result["lanes"][title] = figures
            parts.append(f"### {title}\n\n{lane_table(figures)}")
            print(parts[-1], flush=True)
    finally:
        write(args.output, "gpu", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
