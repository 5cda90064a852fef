"""Stage 1's class loss beside a pair loss: what the network knows of the train labels is kept while pairs move it."""

import torch
from torch import nn

from core.errors import InputError
from core.types import Share
from core.text import counted
from data.records import Records
from embeddings.classifier import classes_of, open_class_loss
from engine.mining import Mining
from engine.objective import tell_labels


class WithKeptClasses(nn.Module):
    """(1 - share) times the loss of pairs plus `share` times the loss of classes, whose weights learn on.

    `logs` after a call: pair_loss and class_loss, and what both log.
    """

    def __init__(self, pairs: nn.Module, classes: nn.Module, share: float):
        super().__init__()
        self.pairs = pairs
        self.classes = classes
        self.share = share
        self.logs: dict[str, torch.Tensor] = {}

    @property
    def reads_labels(self) -> bool:
        """Whether the loss of pairs takes labels on the host."""
        return getattr(self.pairs, "reads_labels", False)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, **further: object) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and label codes (B,); further: what the loss of pairs takes beside."""
        pair_loss = self.pairs(embeddings, labels, **further)
        class_loss = self.classes(embeddings, labels.to(embeddings.device, non_blocking=True))
        parts = {"pair_loss": pair_loss.detach(), "class_loss": class_loss.detach()}
        self.logs = {**parts, **self.pairs.logs, **self.classes.logs}
        return (1 - self.share) * pair_loss + self.share * class_loss


def with_kept_classes(
    pair_loss: nn.Module,
    source: str | None,
    embedding_size: int,
    records: Records,
    adds_layer: bool = False,
    miner: Mining | None = None,
    *,
    keep_classes: Share = 0.0,
) -> nn.Module:
    """The pair loss, beside it the loss of the stage 1 run `source` (--pretrained_model), if that is asked for.

    Options:
        keep_classes: share of stage 1's class loss, which goes on with its weights beside the pair loss; 0: none

    Name, options and weights of the class loss are those of the run's checkpoint. records: the train list; adds_layer:
    whether the network begins with a layer behind that of `source`. Raises InputError where `source` is no run of stage
    1, was trained on other labels, or has class weights for other embeddings than these.
    """
    if not keep_classes:
        return pair_loss
    if adds_layer:
        raise InputError("--keep_classes does not go with --init_embedding, whose layer makes other embeddings")
    if miner is not None and miner.adds_rows:
        raise InputError("--keep_classes does not go with a miner that compares means of labels")
    class_loss, state = open_class_loss(source, "--keep_classes", embedding_size)
    before = classes_of(state)
    labels = records.vocabulary
    if before.tolist() != labels.labels.tolist():
        raise InputError(
            f"--keep_classes goes on with the {counted(len(before), 'label')} of {source!r}, but the train list has "
            f"{len(labels)} that are not the same"
        )
    tell_labels(class_loss, records)
    return WithKeptClasses(pair_loss, class_loss, keep_classes)
