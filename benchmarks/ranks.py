"""Several ranks against one: the largest difference of any weight after three steps in float64, for every loss.

    python benchmarks/ranks.py                                 # half a minute on 2 cores
    python benchmarks/ranks.py --ranks=2,3,4

Batches are cut so that shares are uneven and pairs and triplets stand on two ranks. Differences are rounding: sums over
ranks add up in another order.
"""

import argparse
import datetime
import itertools
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.contest import machine, markdown, write
from engine import ranks
from engine.backward import backward
from engine.batchnorm import synchronise
from engine.fit import clipped_norm, update
from engine.objective import Objective
from engine.optim import build_optimiser
from losses import LOSSES
from samplers import SAMPLERS, Shard

STEPS, IMAGES, LABELS, CLASSES = 3, 48, 8, 40
BATCHES = {"shuffled": 13, "pk": 14, "triplet": 15}  # images in a batch of each sampler
SETTINGS = {
    "BatchNorm frozen": {"freeze_bn": True},
    "--micro_batch=2": {"freeze_bn": True, "micro_batch": 2},
    "--sync_bn": {"sync_bn": True},
    "--shard_classes": {"freeze_bn": True, "shard_classes": True},
    "--shard_classes --class_sample_rate=0.5": {"freeze_bn": True, "shard_classes": True, "class_sample_rate": 0.5},
}


class Net(nn.Sequential):
    """uint8 images (B, 3, H, W) to embeddings (B, 6)."""

    def __init__(self):
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))

    def forward(self, images):
        return super().forward(images.to(self[0].weight.dtype) / 50)


def applies(setting, name):
    """Whether the loss `name` has class weights, where they are what the setting is about."""
    return "shard_classes" not in SETTINGS[setting] or LOSSES.fact(name, "stage") == "elem"


def train(name, steps=STEPS, freeze_bn=False, sync_bn=False, micro_batch=0, shard_classes=False, **options):
    """Weights and buffers, {name: tensor}, after `steps` steps with the loss `name` on images of noise."""
    torch.manual_seed(0)
    images = (torch.rand(IMAGES, 3, 12, 12) * torch.linspace(10, 255, IMAGES)[:, None, None, None]).byte()
    labels = np.arange(IMAGES) % LABELS * (CLASSES // LABELS)
    facts = {"embedding_size": 6, "num_classes": CLASSES}
    settings = {fact: facts[fact] for fact in LOSSES.requirements(name)} | options
    in_parts = shard_classes and ranks.count() > 1
    if in_parts:
        loss = LOSSES[name].of_part(ranks.share(CLASSES), ranks.total, ranks.highest, **settings)
    else:
        loss = LOSSES[name](**settings)
    objective = Objective(Net(), loss, part_of_loss=in_parts).double()
    optimiser = build_optimiser("momentum", objective.model, loss, 0.1, class_lr=0.5)
    if sync_bn and ranks.count() > 1:
        synchronise(objective.model)
    for layer in objective.model if freeze_bn else ():
        layer.train(not isinstance(layer, nn.BatchNorm2d))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    kind = LOSSES.fact(name, "batch")
    batches = Shard(SAMPLERS[kind](labels, BATCHES[kind]), ranks.rank(), ranks.count())
    for batch in itertools.islice(batches, steps):
        indices = [draw.index for draw in batch]
        optimiser.zero_grad()
        backward(
            objective,
            images[indices],
            torch.from_numpy(labels[indices]),
            scaler,
            torch.device("cpu"),
            "fp32",
            micro_batch,
        )
        clipped_norm(objective, optimiser, scaler, 0 if shard_classes else 0.5)
        update(optimiser, scaler)
    state = objective.state_dict()
    return {n: ranks.gather(value) if in_parts and n.startswith("loss.") else value for n, value in state.items()}


def train_all(names, settings):
    """{(loss, setting): what `train` returns} of all pairs that apply."""
    pairs = itertools.product(names, settings)
    return {(name, setting): train(name, **SETTINGS[setting]) for name, setting in pairs if applies(setting, name)}


def in_ranks(number, work, *arguments):
    """What work(*arguments), pickled by name, returns on each of so many ranks: new processes on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_be_rank, (number, free_port(), folder, work, arguments), nprocs=number)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(number)]


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def _be_rank(rank, number, port, folder, work, arguments):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks.ALONE_SECONDS = ranks.STEP_SECONDS  # nobody has anything long to do alone
    ranks.join(torch.device("cpu"))
    torch.save(work(*arguments), Path(folder, f"{rank}.pt"))
    ranks.leave()


def difference(left, right):
    """The largest difference of any number in two state dicts."""
    return max((left[name] - right[name]).abs().max().item() for name in left)


def table(names, settings, counts):
    """{loss: {setting: {ranks: largest difference from one rank}}}, and how far that one has moved under `moved`."""
    alone = train_all(names, settings)
    found = {name: {setting: {} for setting in settings if applies(setting, name)} for name in names}
    for number in counts:
        together = in_ranks(number, train_all, names, settings)
        for (name, setting), state in alone.items():
            found[name][setting][number] = max(difference(state, own[name, setting]) for own in together)
    for name, setting in alone:
        start = train(name, steps=0, **SETTINGS[setting])
        found[name][setting]["moved"] = max(
            difference({n: start[n]}, alone[name, setting]) for n in start if n.endswith("0.weight")
        )
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,3", help="numbers of ranks to hold against one")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    counts = [int(word) for word in args.ranks.split(",")]
    torch.set_num_threads(1)
    found = table(LOSSES.names(), list(SETTINGS), counts)
    columns = ["loss", "first weights moved by"] + [
        f"{setting}, {number} ranks" for setting in SETTINGS for number in counts
    ]
    rows = [
        [name, f"{own['BatchNorm frozen']['moved']:.1e}"]
        + [f"{own[s][number]:.1e}" if s in own else "" for s in SETTINGS for number in counts]
        for name, own in found.items()
    ]
    heading = f"{machine()}, torch {torch.__version__}, gloo; {datetime.date.today()}; {STEPS} steps."
    write(args.output, "ranks", found, f"{heading}\n\n{markdown(columns, rows)}")


if __name__ == "__main__":
    main()
