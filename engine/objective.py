"""What is minimised: model and loss as one module, so that the loop knows neither."""

from typing import Annotated

import torch
from torch import nn

import distributed
from core.errors import InputError
from core.types import Count, OneOf
from distributed import sharded_classes
from losses import LOSSES
from retrieval import recall_at_k


class Objective(nn.Module):
    """`forward(images, labels)` gives the loss; `figures()` says what the last batch looked like.

    batch_recall: figures hold Recall@1 within the batch (cosine), the ancestor's training figure for pair losses.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, batch_recall: bool = False):
        super().__init__()
        self.model = model
        self.loss = loss
        self.batch_recall = batch_recall
        self._last_batch: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def loss_is_sharded(self) -> bool:
        """Whether this rank has some rows of the loss's weights only, whose gradient it has whole then."""
        return sharded_classes.is_sharded(self.loss)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, 3, H, W) of this rank, labels of all ranks' -> scalar."""
        return self.compare(self.model(images), labels)

    def compare(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of this rank's images, labels of all ranks' -> scalar, the same on every rank."""
        embeddings = distributed.all_gather(embeddings)
        # Kept as tensors: figures are wanted at few of the steps.
        self._last_batch = (embeddings.detach(), labels)
        return self.loss(embeddings, labels)

    def figures(self) -> dict[str, float]:
        """Figures of the last batch; reading them waits for the device, so ask only at display steps."""
        logs = getattr(self.loss, "logs", {})
        figures = {name: float(value.detach()) for name, value in logs.items()}
        if self.batch_recall:
            embeddings, labels = self._last_batch
            figures["recall"] = recall_at_k(embeddings, labels, ks=(1,))[1]
        return figures


def build_objective(model: nn.Module, loss: nn.Module, device: torch.device, batch_recall: bool = False) -> Objective:
    """The Objective of both, on `device`, in the memory layout in which convolutions are fastest."""
    objective = Objective(model, loss, batch_recall).to(memory_format=torch.channels_last)
    return objective.to(device)


def build_loss(
    options: dict[str, object],
    embedding_size: int,
    num_classes: int,
    precision: str,
    *,
    loss_name: Annotated[str, OneOf("losses", "solvers")],
    class_dim: Count | None = None,
    shard_classes: bool = False,
) -> nn.Module:
    """The loss of that name, on the CPU.

    Options:
        loss_name: one of {losses}; its own flags: --loss_name=NAME --help
        class_dim: checked against the number of train labels (default: no check)
        shard_classes: a part of the class weights on each rank (torchrun)

    options: those of the loss's own keywords, {name: value}. embedding_size, num_classes: what is compared and how many
    labels there are, for losses that ask. Raises InputError for another number of labels than `class_dim`, and for what
    does not go with `shard_classes`.
    """
    if class_dim and class_dim != num_classes:
        raise InputError(f"class_dim is {class_dim}, but training uses {num_classes} labels")
    facts = {"embedding_size": embedding_size, "num_classes": num_classes}
    required = {name: facts[name] for name in LOSSES.requirements(loss_name)}
    several = distributed.world_size() > 1
    # The scaler would look for infinities on each rank alone, and ranks would disagree on a step.
    if shard_classes and several and precision == "fp16":
        raise InputError("--shard_classes does not go with --precision=fp16; take bf16 or fp32")
    return sharded_classes.build_loss(LOSSES[loss_name], shard_classes and several, **required, **options)
