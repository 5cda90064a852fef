"""A training run put together out of its parts, in the order in which they need each other.

Random numbers are drawn in this order, too: the network's weights, the loss's, then the batches'.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import distributed
from core.console import log
from core.device import open_device
from core.errors import InputError
from core.types import Words
from data.image.decode import choose_decoder
from data.provenance import note_other_list
from data.records import Records
from data.samplers import BatchSampler
from distributed.sync_batchnorm import refuse_micro_batches
from engine.best import open_best
from engine.checkpoint import Progress
from engine.figures import check_figure
from engine.learner import Learner, check_batches
from engine.lookalikes import Lookalikes
from engine.memory import Memory
from engine.mining import Mining
from engine.objective import build_objective
from engine.optimiser import build_optimiser
from engine.provenance import describe_run
from engine.run import Run, open_run
from engine.seeding import seed_everything
from engine.testing import Pictures, Tester
from engine.trainer import TrainerSettings
from models import Embedder, ModelSettings, build_model


@dataclass(frozen=True)
class Start:
    """What a run is computed on, and where it is kept."""

    settings: TrainerSettings
    device: torch.device
    precision: str
    run: Run


def start_run(settings: TrainerSettings, sync_bn: bool, device: dict, run: dict) -> Start:
    """Choose the device, meet the other ranks, open the run's folder; nothing is written yet.

    device, run: keywords of `open_device` and `open_run`. Raises InputError as they do.
    """
    refuse_micro_batches(sync_bn, settings.micro_batch)
    chosen, precision = open_device(**device)
    distributed.init(chosen)
    return Start(settings, chosen, precision, open_run(**run))


def build_first_model(
    start: Start,
    settings: ModelSettings,
    lists: dict[str, dict],
    train_batch_size: int,
    adds_layer: bool = False,
    **build: bool | int,
) -> Embedder:
    """The network to train, on the CPU, drawn from the run's seed; a run that goes on takes no first weights.

    lists: {split: list_facts}; adds_layer: as `build_model`, of which `build` are keywords. Says where the run that the
    weights come from had another train list. Raises InputError for a network that cannot train on such batches.
    """
    first_weights = start.run.first_weights(settings.pretrained_model)
    note_other_list(first_weights, "train", lists["train"])
    seed_everything(start.settings.seed)
    model = build_model(settings, first_weights, adds_layer, **build)
    check_batches(model, settings, train_batch_size, start.settings.micro_batch)
    return model


def build_learner(
    start: Start,
    model: Embedder,
    loss: nn.Module,
    batch_recall: bool = False,
    miner: Mining | None = None,
    memory: Memory | None = None,
    lookalikes: Lookalikes | None = None,
    **optimiser: object,
) -> Learner:
    """Network and loss on the device, with the optimiser of their weights; optimiser: keywords of `build_optimiser`."""
    # On the device first, since the optimiser is another one there.
    objective = build_objective(model, loss, start.device, batch_recall, miner, memory, lookalikes)
    return Learner(
        objective,
        build_optimiser(model, loss, **optimiser),
        start.device,
        start.precision,
        start.settings.micro_batch,
        start.settings.clip_norm,
    )


def open_tester(
    start: Start,
    records: Records,
    tested_on: str,
    loader: Iterable,
    pictures: Pictures,
    draw_batches: Callable[[], BatchSampler] | None = None,
    others: Sequence[tuple[str, Records, Iterable]] = (),
    title: str = "",
    *,
    test_metrics: Words = (),
    test_distance: Literal["cosine", "squared_euclidean"] = "cosine",
    test_loss: bool = False,
    best: str | None = None,
) -> Tester:
    """The list that the run is tested on.

    Options:
        test_metrics: further figures of each test, comma-separated, such as map@r,knn@5 (docs/metrics.md), also
            fnmr@fmr=0.1 and pcf@0.5
        test_distance: of the tests: one of cosine, squared_euclidean
        test_loss: at each test the loss, too, of batches of the test list that are always the same
        best: the figure that chooses best.pt, as map@r, b.csv/recall@1, or recall@1/CATEGORY; the most of it, of loss
            and fnmr the least (default: recall@1)

    loader: the list in order. draw_batches: opens the sampler of those batches. others: (title, list, the list in
    order) of further ones to test on; title: of this one. Raises InputError for a figure that there is not, and for a
    test list that fills no batch.
    """
    for name in test_metrics:
        check_figure(name)
    chosen = open_best(best, [(title, records), *(other[:2] for other in others)], test_loss)
    if best is not None and title:
        log(
            f"note: best.pt is chosen by {best} on a test list, so that figures there promise too much; --val_classes "
            "holds out train labels to choose on"
        )
    fixed_batches = None
    if test_loss:
        try:
            fixed_batches = draw_batches().epoch(0)
        except InputError as error:
            raise InputError(f"--test_loss fills batches from the test list: {error}") from None
    testers = []
    for number, (name, listed, batches) in enumerate(others, start=1):
        metrics = chosen.measured(test_metrics, number)
        what = f"the test list {name}"
        testers.append(Tester(listed, batches, start.device, what, pictures, metrics, test_distance, title=name))
    return Tester(
        records,
        loader,
        start.device,
        tested_on,
        pictures,
        chosen.measured(test_metrics, 0),
        test_distance,
        fixed_batches,
        others=testers,
        best=chosen,
    )


def begin_run(start: Start, progress: Progress, flags: dict[str, object], lists: dict[str, dict]) -> None:
    """Write config.json, with all flags and the values in use, and open the loggers. Raises InputError as Run.begin.

    A run that goes on, on whatever machine, takes the decoder and the precision that it began with.
    """
    in_use = {"decode": choose_decoder(flags["decode"], flags["cache_kind"]), "precision": start.precision}
    flags = {**flags, **in_use}
    config = describe_run(flags, start.device, start.precision, lists)
    start.run.begin(config, progress.start, progress.untested)
