"""EasyDL's training by epochs, as the loop of the house runs it: batches with `x` and `y` in, a file an epoch out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import distributed
from compat.easydl.config import CommonCallbackConfig
from core.console import log
from core.device import choose_device
from core.files import replacing
from engine.learner import Learner
from engine.loop import fit
from engine.nan_guard import FiniteGuard
from engine.objective import Objective

State = dict[str, Any]


def model_file_default_name_given_epoch(epoch: int) -> str:
    """The file's name: model_epoch_001.pth."""
    return f"model_epoch_{epoch:03d}.pth"


def safe_save_model(model: nn.Module, save_path: str | Path) -> None:
    """Write a model's state_dict, whole or not at all; of several processes the first one does."""
    if not distributed.is_first():
        return
    with replacing(save_path) as file:
        torch.save(model.state_dict(), file)


def default_epoch_end_callback(state_cache: State) -> None:
    """Write the model's weights where CommonCallbackConfig says so; those of the first epoch always."""
    epoch = state_cache["epoch"]
    every = CommonCallbackConfig.save_model_every_n_epochs
    if epoch == 1 or (every > 0 and epoch % every == 0):
        folder = Path(CommonCallbackConfig.save_model_dir)
        folder.mkdir(parents=True, exist_ok=True)
        safe_save_model(state_cache["model"], folder / model_file_default_name_given_epoch(epoch))


def train_xy_model_for_epochs(
    model: nn.Module,
    dataloader: DataLoader,
    optimizer: torch.optim.Optimizer,
    loss_fn: nn.Module,
    device: torch.device | str | None = None,
    num_epochs: int = 10,
    epoch_end_callback: Callable[[State], None] | None = default_epoch_end_callback,
) -> nn.Module:
    """Train a model on batches {"x": its input, "y": labels (B,)} and return it.

    optimizer: over the weights of model and loss, at the rate that it was made with. device: None for the accelerator
    there is, else the CPU. epoch_end_callback is given {"model", "epoch" (from 1), "avg_loss"}. Raises NotFinite, an
    InputError, for a loss or a gradient that is not.
    """
    device = choose_device() if device is None else torch.device(device)
    base = optimizer.defaults["lr"]
    for group in optimizer.param_groups:
        group.setdefault("ratio", group["lr"] / base)
    learner = Learner(Objective(model, loss_fn).to(device), optimizer, device)
    epochs = _Epochs(model, len(dataloader), epoch_end_callback)
    fit(
        learner,
        _endless(dataloader),
        lambda step: base,
        start=0,
        total=num_epochs * len(dataloader),
        guard=FiniteGuard(learner.objective, device),
        display_every=1,
        on_display=epochs.on_display,
        on_step=epochs.on_step,
    )
    return model


def train_xy_model_for_epochs_v2(
    model: nn.Module,
    dataloader: DataLoader,
    optimizer: torch.optim.Optimizer,
    loss_fn: nn.Module,
    num_epochs: int = 10,
    epoch_end_callback: Callable[[State], None] | None = default_epoch_end_callback,
) -> nn.Module:
    """As `train_xy_model_for_epochs`, on the device there is."""
    return train_xy_model_for_epochs(
        model, dataloader, optimizer, loss_fn, None, num_epochs, epoch_end_callback=epoch_end_callback
    )


class _Epochs:
    """Counts steps into epochs, and says and calls what is due at the end of each."""

    def __init__(self, model: nn.Module, steps: int, callback: Callable[[State], None] | None) -> None:
        self.model = model
        self.steps = steps
        self.callback = callback
        self.loss = 0.0

    def on_display(self, step: int, figures: dict[str, float]) -> None:
        self.loss += figures["loss"]

    def on_step(self, step: int) -> None:
        if step % self.steps:
            return
        state = {"model": self.model, "epoch": step // self.steps, "avg_loss": self.loss / self.steps}
        self.loss = 0.0
        log(f"Epoch {state['epoch']}: Loss = {state['avg_loss']:.4f}")
        if self.callback is not None:
            self.callback(state)
            # A callback may have tested the model.
            self.model.train()


def _endless(dataloader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches as the loop takes them, epoch after epoch; nobody knows here which rows of a list they are."""
    while True:
        for batch in dataloader:
            # EasyDL's own example calls its labels so.
            labels = batch["label"] if "y" not in batch else batch["y"]
            yield batch["x"], labels, torch.full((len(labels),), -1)
