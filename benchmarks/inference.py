"""Embedding extraction, one way against the other: images a second, and how near the embeddings come to float32's.

    python benchmarks/inference.py                        # 3 minutes on 2 cores
    python benchmarks/inference.py --model=EfficientNetLite0 --side=80 --images=512

Weights and images are random, and in memory, so that decoding takes no part.
All contenders run in turn in one process, each over all images in every round.
"""

import argparse
import copy
import datetime
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
from torch.nn.functional import cosine_similarity

from benchmarks.contest import PACKAGES, contest, machine, markdown, versions, write
from core.device import autocast, choose_device
from core.errors import InputError
from models import BACKBONES, Embedder, fast_model

REFERENCE = "float32, NCHW"


def contenders(model: Embedder, images: torch.Tensor) -> dict[str, Callable]:
    """{name: function of a batch (B, 3, H, W) uint8 in channels_last memory to embeddings (B, D)}."""
    shape = images.shape[1:]
    ways = {
        REFERENCE: lambda: copy.deepcopy(model),
        "float32, channels_last": lambda: copy.deepcopy(model).to(memory_format=torch.channels_last),
        "bf16 by autocast, channels_last": lambda: copy.deepcopy(model).to(memory_format=torch.channels_last),
        "ours: --precision=fp32": lambda: fast_model(model, "fp32", "torch", shape),
        "ours: --precision=bf16": lambda: fast_model(model, "bf16", "torch", shape),
        "ours: --runtime=onnx": lambda: fast_model(model, "fp32", "onnx", shape),
        "ours: --runtime=openvino --precision=fp32": lambda: fast_model(model, "fp32", "openvino", shape),
        "ours: --runtime=openvino --precision=bf16": lambda: fast_model(model, "bf16", "openvino", shape),
    }
    built = {}
    for name, build in ways.items():
        try:
            built[name] = build()
        except InputError as error:
            print(f"left out: {name} ({error})", flush=True)
    return built


def run(name: str, net: Callable, batches: list[torch.Tensor]) -> torch.Tensor:
    """Embeddings (N, D) float32 of all batches."""
    precision = "bf16" if "autocast" in name else "fp32"
    embeddings = []
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        for images in batches:
            if name == REFERENCE:
                images = images.contiguous()
            embeddings.append(net(images).float())
    return torch.cat(embeddings)


def add_quality(figures: dict[str, dict], images: int) -> None:
    """To the figures of each contender: images_per_second, and cosine, the least to the reference, for its `value`."""
    exact = figures[REFERENCE]["value"].double()
    for figure in figures.values():
        figure["cosine"] = cosine_similarity(figure.pop("value").double(), exact).min().item()
        figure["images_per_second"] = images / figure["seconds"]


def lane_table(figures: dict[str, dict], images: int) -> str:
    """The contenders as Markdown."""
    rows = []
    for name, figure in figures.items():
        gain = figures[REFERENCE]["seconds"] / figure["seconds"]
        spread = "–".join(f"{images / seconds:.1f}" for seconds in reversed(figure["spread"]))
        speed = f"{figure['images_per_second']:.1f}"
        rows.append([name, speed, spread, f"{gain:.2f}", f"{figure['cosine']:.6f}", f"{figure['peak_mb']:.0f}"])
    columns = ["", "images/s", "least–most", f"× {REFERENCE}", "least cosine to it", "peak MB"]
    return markdown(columns, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ResNet50", choices=BACKBONES, help="the backbone (default: ResNet50)")
    parser.add_argument("--side", type=int, default=224, help="pixels of a side (default: 224)")
    parser.add_argument("--images", type=int, default=64, help="images a round (default: 64)")
    parser.add_argument("--batch", type=int, default=32, help="images a batch (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, args.side, args.side, 3), generator=generator, dtype=torch.uint8)
    batches = images.permute(0, 3, 1, 2).split(args.batch)
    nets = contenders(Embedder(args.model).eval(), batches[0])
    for name, net in nets.items():  # what is made at the first batch of a shape is not timed
        run(name, net, batches[:1])
    figures = contest({name: lambda n=name: run(n, nets[n], batches) for name in nets}, args.rounds)
    add_quality(figures, args.images)
    packages = ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())
    facts = f"{args.model}, {args.side} px, batch {args.batch}, {args.images} images, medians of {args.rounds} rounds"
    text = f"{facts}; {machine()}; {packages}; {datetime.date.today()}.\n\n{lane_table(figures, args.images)}"
    content = {"machine": machine(), "versions": versions(PACKAGES), **vars(args), "contenders": figures}
    write(args.output, "inference", content, text)


if __name__ == "__main__":
    main()
