"""A training run put together out of its parts, in the order in which they need each other.

Random numbers are drawn in this order, too: the network's weights, the loss's, then the batches'.
"""

from dataclasses import dataclass

import torch
from torch import nn

import distributed
from core.device import open_device
from data.image.decode import choose_decoder
from data.provenance import note_other_list
from distributed.sync_batchnorm import refuse_micro_batches
from engine.checkpoint import Progress
from engine.learner import Learner, check_batches
from engine.lookalikes import Lookalikes
from engine.memory import Memory
from engine.mining import Mining
from engine.objective import build_objective
from engine.optimiser import build_optimiser
from engine.provenance import describe_run
from engine.run import Run, open_run
from engine.seeding import seed_everything
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


def begin_run(start: Start, progress: Progress, flags: dict[str, object], lists: dict[str, dict]) -> None:
    """Write config.json, with all flags and the values in use, and open the loggers. Raises InputError as Run.begin.

    A run that goes on, on whatever machine, takes the decoder and the precision that it began with.
    """
    in_use = {"decode": choose_decoder(flags["decode"], flags["cache_kind"]), "precision": start.precision}
    flags = {**flags, **in_use}
    config = describe_run(flags, start.device, start.precision, lists)
    start.run.begin(config, progress.start, progress.untested)
