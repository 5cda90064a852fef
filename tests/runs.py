"""Runs of the scripts that take a blink: a network of one layer, few steps, and what they print."""

import contextlib
import importlib
import io
import json
from collections import OrderedDict
from unittest import mock

from torch import nn

from core.registry import Entry
from models.backbones import BACKBONES, IMAGENET, Backbone

SCRIPTS = {name: importlib.import_module(name) for name in ("train_elem", "train_pair", "eval", "infer")}
# search.py takes a command before its flags, train_reranker.py needs a run of another script.
PROGRAMS = {**SCRIPTS, **{name: importlib.import_module(name) for name in ("search", "train_reranker")}}


def tiny_net(weights):
    """Without a kink: where rounding carries a ReLU over its own, a slope jumps, which no bound of rounding allows."""
    layers = [("conv1", nn.Conv2d(3, 8, 5, stride=4)), ("bn1", nn.BatchNorm2d(8)), ("act", nn.SiLU())]
    return nn.Sequential(OrderedDict(layers))


def tiny_backbone():
    """A context in which the models have one more: `Tiny`, 8 numbers an image, for which ImageNet has no weights."""
    row = Backbone(tiny_net, 8, (("conv1", "bn1"),), IMAGENET)
    facts = {"modality": "image", "output": "maps", "weights": ()}
    return mock.patch.dict(BACKBONES._entries, Tiny=Entry(lambda name: row, facts))


def as_line(flags):
    """{"lr": 0.1} as ["--lr=0.1"]; a flag that is None is left out."""
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def train_flags(data_dir, run_dir, /, **flags):
    """A command line of either training script: three steps of six images through Tiny on the CPU, alike on all of them."""
    common = {
        "data_dir": data_dir,
        "model_save_dir": run_dir,
        "model": "Tiny",
        "image_shape": "3,32,32",
        "train_batch_size": 6,
        "total_iter_num": 3,
        "display_iter_step": 1,
        "num_workers": 0,
        "use_gpu": False,
        "precision": "fp32",
    }
    return as_line({**common, **flags})


def run(script, line):
    """Call the script's main in this process; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PROGRAMS[script].main([str(word) for word in line])
    return printed.getvalue()


def read_json(path):
    return json.loads(path.read_text())


def read_metrics(run_dir):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def embedding_moves(run_dir, paths):
    """A run's embeddings of these images, (N, 8) float64, and how far they move, for a relative change of 1 in every
    layer of Tiny."""
    import torch
    from tolerances import sensitivity

    from data.image.files import read_image
    from data.image.transforms import TestTransform
    from models import Embedder

    with tiny_backbone():
        model = Embedder("Tiny")
    model.load_state_dict(torch.load(run_dir / "last.pt", weights_only=True)["model"])
    images = torch.stack([TestTransform(32, 32)(read_image(path)) for path in paths]).permute(0, 3, 1, 2)
    model = model.double().eval()
    moves = sensitivity(model, lambda: {"embeddings": model(images)})["embeddings"]
    return model(images).detach(), moves
