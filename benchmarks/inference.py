"""Embedding extraction, one way against the other: images a second, and how near the embeddings come to float32's.

    python benchmarks/inference.py                        # ResNet50: 3 minutes on 2 cores
    python benchmarks/inference.py --model timm:vit_small_patch16_224 clip:ViT-B-32 --images=32 --batch=16
    python benchmarks/inference.py --model EfficientNetLite0 --side=80 --images=512

Weights and images are random, and in memory, so that decoding takes no part.
All contenders of a network run in turn in one process, each over all images in every round. A network of timm or
open_clip is also run as its package does it, with the same weights: by its own call, and compiled, for which both
packages have a flag. Pixels are normalised in the same way for all.
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
from torch import nn
from torch.nn.functional import cosine_similarity

from benchmarks._contest import PACKAGES as BASE_PACKAGES
from benchmarks._contest import contest, machine, markdown, versions, write
from core.device import autocast, choose_device
from core.errors import InputError
from models import BACKBONES, Embedder, fast_model
from models.backbones import source_of

REFERENCE = "float32, NCHW"
PACKAGES = (*BASE_PACKAGES, "timm", "open_clip_torch", "onnxruntime")


def contenders(model: Embedder, images: torch.Tensor) -> dict[str, Callable]:
    """{name: function of a batch (B, 3, H, W) uint8 in channels_last memory to embeddings (B, D)}."""
    shape = images.shape[1:]
    ways = {
        REFERENCE: lambda: copy.deepcopy(model),
        "float32, channels_last": lambda: copy.deepcopy(model).to(memory_format=torch.channels_last),
        "bf16 by autocast, channels_last": lambda: copy.deepcopy(model).to(memory_format=torch.channels_last),
        **peers(model),
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


def peers(model: Embedder) -> dict[str, Callable]:
    """As `contenders`, what makes the ways of the network's own package; none for torchvision's, which are ours."""
    source = source_of(model.facts["model"])
    if source == "timm:":
        title, build = "timm", as_timm
    elif source == "clip:":
        title, build = "open_clip, encode_image", as_open_clip
    else:
        return {}
    return {
        title: lambda: build(model),
        f"{title}, torch.compile": lambda: torch.compile(build(model)),
    }


def as_timm(model: Embedder) -> nn.Module:
    """timm's own network with the weights of `model`, called as its inference.py does."""
    import timm

    net = timm.create_model(model.facts["model"].removeprefix("timm:"), num_classes=0).eval()
    net.load_state_dict(model.backbone.net.state_dict())
    return OwnCall(model, net)


def as_open_clip(model: Embedder) -> nn.Module:
    """open_clip's own network of both towers with the weights of `model`, asked for the embeddings of images."""
    import open_clip

    net = open_clip.create_model(model.facts["model"].removeprefix("clip:").partition("/")[0]).eval()
    net.visual.load_state_dict(model.backbone.net.state_dict())
    return OwnCall(model, net, "encode_image")


class OwnCall(nn.Module):
    """A package's network on the normalised pixels that an Embedder makes of uint8 images (B, 3, H, W)."""

    def __init__(self, model: Embedder, net: nn.Module, method: str = "forward") -> None:
        super().__init__()
        self.net = net
        self.method = method
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return getattr(self.net, self.method)((images.float() - self.mean) / self.std)


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
    parser.add_argument(
        "--model", nargs="+", type=known_model, default=["ResNet50"], help="the backbones (default: ResNet50)"
    )
    parser.add_argument("--side", type=int, default=224, help="pixels of a side (default: 224)")
    parser.add_argument("--images", type=int, default=64, help="images a round (default: 64)")
    parser.add_argument("--batch", type=int, default=32, help="images a batch (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    tables = {}
    measured = {}
    for model in args.model:
        measured[model], tables[model] = lane(model, args)
    packages = ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())
    facts = f"{args.side} px, batch {args.batch}, {args.images} images, medians of {args.rounds} rounds"
    text = f"{facts}; {machine()}; {packages}; {datetime.date.today()}."
    for model, table in tables.items():
        text += f"\n\n### {model}\n\n{table}"
    content = {"machine": machine(), "versions": versions(PACKAGES), **vars(args), "contenders": measured}
    write(args.output, "inference", content, text)


def lane(name: str, args: argparse.Namespace) -> tuple[dict[str, dict], str]:
    """The figures of one network's contenders, and their table."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, args.side, args.side, 3), generator=generator, dtype=torch.uint8)
    batches = images.permute(0, 3, 1, 2).split(args.batch)
    nets = contenders(Embedder(name, pooling=BACKBONES[name](name).pooling).eval(), batches[0])
    for contender, net in nets.items():  # what is made at the first batch of a shape is not timed
        run(contender, net, batches[:1])
    figures = contest({title: lambda t=title: run(t, nets[t], batches) for title in nets}, args.rounds)
    add_quality(figures, args.images)
    return figures, lane_table(figures, args.images)


def known_model(text: str) -> str:
    """A backbone's name."""
    if text not in BACKBONES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(BACKBONES)}, nor a name behind a source")
    return text


if __name__ == "__main__":
    main()
