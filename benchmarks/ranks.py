"""Several ranks against one: the same weights after training, and what each holds of many classes, of a large gallery.

    python benchmarks/ranks.py                                 # three minutes and 9 GB on 2 cores
    python benchmarks/ranks.py --ranks=2,3,4 --tables=weights

weights: the largest difference of any weight after three steps in float64, for every loss. Batches are cut so that
shares are uneven and pairs and triplets stand on two ranks. Differences are rounding: sums over ranks add up in another
order. classes: seconds and memory of a step where each rank has its part of the class weights (--shard_classes).
gallery: those of an evaluation where each rank keeps its part of the embeddings (eval.py --shard_gallery).
"""

import argparse
import datetime
import itertools
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np
import torch
from torch import nn

import distributed
from benchmarks._contest import machine, markdown, timed, write
from data.samplers import SAMPLERS, InOrder, RankBatches
from distributed import group
from distributed.sharded_classes import build_loss
from distributed.sync_batchnorm import synchronise
from embeddings.shard import open_shard
from engine.learner import Learner
from engine.memory import Memory
from engine.objective import Objective
from engine.optimiser import build_optimiser
from engine.step import backward, clip_gradient, update
from losses import LOSSES
from retrieval.metrics.per_query import query_values, summary
from retrieval.query_gallery import QueryGallery

TABLES = ("weights", "classes", "gallery")
STEPS, IMAGES, LABELS, CLASSES = 3, 48, 8, 40
WIDTH, MANY, GALLERY = 512, 1_000_000, 200_000
SEARCH_MEMORY = 64 * 2**20
CLASSES_TITLE = (
    f"`--shard_classes`: steps of arcmargin (forward, backward, momentum), {MANY:,} classes x {WIDTH}, batch 256"
)
GALLERY_TITLE = (
    f"`--shard_gallery`: {GALLERY // 50:,} queries against {GALLERY:,} x {WIDTH}, `--search_memory_mb=64`, in %"
)
BATCHES = {"shuffled": 13, "pk": 14, "triplet": 15, "siamese_pairs": 14}  # images in a batch of each sampler
OF_PAIRS = 14  # of a loss whose rows are pairs
SETTINGS = {
    "BatchNorm frozen": {"freeze_bn": True},
    "--micro_batch=2": {"freeze_bn": True, "micro_batch": 2},
    "--sync_bn": {"sync_bn": True},
    "--shard_classes": {"freeze_bn": True, "shard_classes": True},
    "--shard_classes --class_sample_rate=0.5": {"freeze_bn": True, "shard_classes": True, "class_sample_rate": 0.5},
    "--memory_size=24 --micro_batch=2": {"freeze_bn": True, "memory_size": 24, "micro_batch": 2},
}


class Net(nn.Sequential):
    """uint8 images (B, 3, H, W) to embeddings (B, 6)."""

    def __init__(self):
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))

    def forward(self, images):
        return super().forward(images.to(self[0].weight.dtype) / 50)


def applies(setting, name):
    """Whether the loss `name` has class weights, or a use for a memory, where these are what the setting is about."""
    if "shard_classes" in SETTINGS[setting]:
        return LOSSES.fact(name, "stage") == "elem"
    return "memory_size" not in SETTINGS[setting] or LOSSES.fact(name, "memory", False)


def train(
    name, steps=STEPS, freeze_bn=False, sync_bn=False, micro_batch=0, shard_classes=False, memory_size=0, **options
):
    """Weights and buffers, {name: tensor}, after `steps` steps with the loss `name` on images of noise."""
    torch.manual_seed(0)
    images = (torch.rand(IMAGES, 3, 12, 12) * torch.linspace(10, 255, IMAGES)[:, None, None, None]).byte()
    labels = np.arange(IMAGES) % LABELS * (CLASSES // LABELS)
    facts = {"embedding_size": 6, "num_classes": CLASSES}
    settings = {fact: facts[fact] for fact in LOSSES.requirements(name)} | options
    in_parts = shard_classes and distributed.world_size() > 1
    loss = build_loss(LOSSES[name], in_parts, **settings)
    memory = Memory(memory_size, 6) if memory_size else None
    objective = Objective(Net(), loss, memory=memory).double()
    optimiser = build_optimiser(objective.model, loss, lr=0.1, class_lr=0.5)
    if sync_bn and distributed.world_size() > 1:
        synchronise(objective.model)
    for layer in objective.model if freeze_bn else ():
        layer.train(not isinstance(layer, nn.BatchNorm2d))
    learner = Learner(objective, optimiser, torch.device("cpu"), micro_batch=micro_batch, clip_norm=0.5)
    kind = LOSSES.fact(name, "batch")
    size = BATCHES[kind] if LOSSES.fact(name, "pairs") is None else OF_PAIRS
    facts = {"labels": labels, "batch_size": size, "samples_each_class": 2}
    sampler = SAMPLERS[kind](**{fact: facts[fact] for fact in SAMPLERS.requirements(kind)})
    batches = RankBatches(sampler, distributed.rank(), distributed.world_size())
    for batch in itertools.islice(batches, steps):
        indices = [draw.index for draw in batch]
        optimiser.zero_grad()
        backward(learner, images[indices], torch.from_numpy(labels[indices]), torch.tensor(indices))
        clip_gradient(learner)
        update(learner)
    state = objective.state_dict()
    if in_parts:
        for parameter, _ in loss.named_parameters(recurse=False):
            state[f"loss.{parameter}"] = distributed.all_gather(state[f"loss.{parameter}"])
    return state


def train_all(names, settings):
    """{(loss, setting): what `train` returns} of all pairs that apply."""
    pairs = itertools.product(names, settings)
    return {(name, setting): train(name, **SETTINGS[setting]) for name, setting in pairs if applies(setting, name)}


def in_ranks(number, work, *arguments):
    """What work(*arguments), pickled by name, returns on each of so many ranks: new processes on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        start(number, _return_from_rank, folder, work, arguments)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(number)]


def start(number, work, *arguments):
    """Call work(*arguments), pickled by name, in so many new processes that are ranks of each other, until all end.

    They are copies of one that has imported this file, which takes seconds, and has done nothing else.
    """
    multiprocessing.set_forkserver_preload([__name__])
    begun = (number, free_port(), work, arguments)
    torch.multiprocessing.start_processes(_be_rank, begun, nprocs=number, start_method="forkserver")


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def _be_rank(rank, number, port, work, arguments):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    work(*arguments)


def _return_from_rank(folder, work, arguments):
    group.ALONE_SECONDS = group.STEP_SECONDS  # nobody has anything long to do alone
    distributed.init(torch.device("cpu"))
    torch.save(work(*arguments), Path(folder, f"{distributed.rank()}.pt"))
    distributed.close()


def difference(left, right):
    """The largest difference of any number in two state dicts."""
    return max((left[name] - right[name]).abs().max().item() for name in left)


def table(names, settings, counts, alone=None):
    """{loss: {setting: {ranks: largest difference from one rank}}}, and how far that one has moved under `moved`.

    alone: what `train_all` returns for one rank, where that is known.
    """
    alone = alone or train_all(names, settings)
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


def weights_table(counts):
    """(what `table` finds for all losses and settings, the same as Markdown)."""
    found = table(LOSSES.names(), list(SETTINGS), counts)
    columns = ["loss", "first weights moved by"]
    columns += [f"{setting}, {number} ranks" for setting in SETTINGS for number in counts]
    rows = [
        [name, f"{own['BatchNorm frozen']['moved']:.1e}"]
        + [f"{own[s][number]:.1e}" if s in own else "" for s in SETTINGS for number in counts]
        for name, own in found.items()
    ]
    return found, f"Largest difference of any weight after {STEPS} steps.\n\n{markdown(columns, rows)}"


def class_steps():
    """Two steps of arcmargin over MANY classes, a part on each rank: MB of its weights, seconds of the second step."""
    settings = {"embedding_size": WIDTH, "num_classes": MANY}
    loss = build_loss(LOSSES["arcmargin"], distributed.world_size() > 1, **settings)
    optimiser = build_optimiser(nn.Identity(), loss, lr=0.1)
    for _ in range(2):  # the first one makes the momentum
        embeddings, labels = torch.randn(256, WIDTH, requires_grad=True), torch.randint(MANY, (256,))
        distributed.barrier()
        began = time.perf_counter()
        optimiser.zero_grad()
        loss(embeddings, labels).backward()
        optimiser.step()
        seconds = time.perf_counter() - began
    return {"weights, MB": loss.weight.nbytes / 2**20, "seconds a step": seconds}


def gallery_figures():
    """eval.py's default figures of a made-up gallery, a part of it on each rank: their means, MB of the rank's part."""
    batches = InOrder(GALLERY, 1000, distributed.rank(), distributed.world_size())
    embeddings = torch.empty(len(batches.rows()), WIDTH)
    for batch, part in zip(batches.batches, embeddings.split(1000)):
        torch.manual_seed(batch)
        part.normal_().add_(torch.randn(len(part) // 10, WIDTH).mul_(0.5).repeat_interleave(10, 0))
    labels, asking = torch.arange(GALLERY) // 10, torch.arange(GALLERY) % 50 == 0
    shard = None
    if distributed.world_size() > 1:
        shard = open_shard(embeddings, torch.from_numpy(batches.rows()), GALLERY, torch.device("cpu"))
    task = QueryGallery.of(shard.placeholder() if shard else embeddings, labels, is_query=asking)
    means = summary(query_values(task, memory=SEARCH_MEMORY, shard=shard), task.positives())["overall"]
    figures = {name: 100 * means[name] for name in ("recall@1", "map@r", "mrr")}
    return {"embeddings, MB": embeddings.nbytes / 2**20, **figures}


def memory_table(title, work, counts):
    """({ranks: what `timed` says of work() on each}, the same as Markdown)."""
    found = {number: in_ranks(number, timed, work) for number in (1, *counts)}
    rows = []
    for number, own in found.items():
        values = [one["value"] for one in own]
        cells = {name: ", ".join(dict.fromkeys(_short(value[name]) for value in values)) for name in values[0]}
        cells["peak MB"] = ", ".join(f"{one['peak_mb']:,.0f}" for one in own)
        most = [max(one["peak_mb"] for one in of_ranks) for of_ranks in (own, found[1])]
        cells["× one rank's memory"] = f"{most[0] / most[1]:.2f}"
        cells["seconds in all"] = _short(max(one["seconds"] for one in own))
        rows.append([number, *cells.values()])
    return found, f"{title}.\n\n{markdown(['ranks', *cells], rows)}"


def _short(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.4g}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,3", help="numbers of ranks to hold against one")
    parser.add_argument("--tables", default=",".join(TABLES), help="which to make")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    counts = [int(word) for word in args.ranks.split(",")]
    torch.set_num_threads(1)
    makers = {
        "weights": lambda: weights_table(counts),
        "classes": lambda: memory_table(CLASSES_TITLE, class_steps, [2]),
        "gallery": lambda: memory_table(GALLERY_TITLE, gallery_figures, [2]),
    }
    made = {name: makers[name]() for name in args.tables.split(",")}
    heading = f"{machine()}, torch {torch.__version__}, gloo; {datetime.date.today()}; peak MB above what was there."
    found = {name: own for name, (own, _) in made.items()}
    write(args.output, "ranks", found, "\n\n".join([heading, *(text for _, text in made.values())]))


if __name__ == "__main__":
    main()
