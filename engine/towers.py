"""Training on pairs: two networks that learn where the other puts what belongs together."""

from collections.abc import Container
from dataclasses import replace

import distributed
from core.errors import InputError
from data.provenance import note_other_list
from engine.assembly import Start
from engine.learner import check_batches
from engine.seeding import seed_everything
from losses import LOSSES
from models import (
    ModelSettings,
    TowerSettings,
    TwoTowers,
    begin_towers,
    build_towers,
    read_towers,
    settings_to_train,
)

# Flags that are about one network, or about rows that are no pairs, and their values that ask for nothing.
OF_ONE_NETWORK = {
    "features": None,
    "test_features": None,
    "init_embedding": None,
    "views": 0,
    "keep_classes": 0,
    "test_loss": False,
}
OF_TOWERS = {"text_model": None, "freeze_tower": "none"}


def learns_from_pairs(loss_name: str, flags: dict[str, object]) -> bool:
    """Whether a loss compares images with texts. Raises InputError for flags, {name: value}, that do not go with it."""
    if LOSSES.fact(loss_name, "pairs") is None:
        for name, nothing in OF_TOWERS.items():
            if flags[name] != nothing:
                raise InputError(f"--{name} goes with --loss_name=clip, which trains two networks; {loss_name} has one")
        return False
    for name, nothing in OF_ONE_NETWORK.items():
        if flags[name] != nothing:
            raise InputError(f"--{name} does not go with --loss_name={loss_name}, which trains two networks on pairs")
    # It would ask one network where labels are.
    if flags["sampler"] == "neighbours":
        raise InputError(f"--sampler=neighbours does not go with --loss_name={loss_name}; take shuffled, or pk")
    return True


def open_towers(start: Start, settings: ModelSettings, typed: Container[str], **towers: str | None) -> TowerSettings:
    """What the two networks are; a run that goes on has it in its own folder.

    towers: keywords of `settings_to_train`. Raises InputError as that does.
    """
    if start.run.checkpoint is None:
        return settings_to_train(settings, typed, **towers)
    own = read_towers(start.run.folder)
    if own is None:
        raise InputError(f"{str(start.run.folder)!r} has no towers.json, so that nothing says what its networks are")
    frozen = towers["freeze_tower"]
    return replace(own, pretrained_model=settings.pretrained_model, frozen=None if frozen == "none" else frozen)


def build_tower_network(
    start: Start, settings: TowerSettings, lists: dict[str, dict], train_batch_size: int, **build: bool | int
) -> TwoTowers:
    """As `build_first_model`, of two networks; train_batch_size: pairs."""
    first_weights = start.run.first_weights(settings.pretrained_model)
    note_other_list(first_weights, "train", lists["train"])
    seed_everything(start.settings.seed)
    model = build_towers(settings, start.run.checkpoint is None, **build)
    for modality, tower in model.towers.items():
        check_batches(tower, settings.towers[modality], train_batch_size, start.settings.micro_batch)
    return model


def keep_towers(start: Start, settings: TowerSettings) -> None:
    """Let the folder of a run that has begun say what its networks are."""
    if distributed.is_first() and start.run.checkpoint is None:
        begin_towers(start.run.folder, settings)
