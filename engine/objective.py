"""What is minimised: model and loss as one module, so that the loop knows neither."""

from typing import NamedTuple

import torch
from torch import nn

import distributed
from core.errors import InputError
from core.pml import PREFIX
from core.types import Count, LossName, Widths, plain
from core.text import class_name, counted
from data.categories import label_categories
from data.records import Records
from distributed import sharded_classes
from engine.lookalikes import Lookalikes
from engine.memory import Memory
from engine.mining import Mining
from losses import LOSSES
from losses._class_loss import ClassLoss
from losses._nested_widths import NestedWidths
from retrieval import recall_at_k


class LastBatch(NamedTuple):
    """What was compared last, without a gradient: kept as tensors, since figures are wanted at few of the steps."""

    embeddings: torch.Tensor  # (B, D)
    labels: torch.Tensor  # (B,)
    rows: torch.Tensor | None  # (B,) of the train list; None where nobody said


class Objective(nn.Module):
    """`forward(images, labels, rows)` gives the loss; `figures()` says what the last batch looked like.

    batch_recall: figures hold Recall@1 within the batch (cosine), the ancestor's training figure for pair losses.
    miner: what chooses the pairs or triplets that the loss looks at, out of the embeddings of all ranks. memory: rows
    that a batch is compared with beside itself; it then has to be told which rows of the train list its images are.
    lookalikes: what leaves negatives out that look like positives.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        batch_recall: bool = False,
        miner: Mining | None = None,
        memory: Memory | None = None,
        lookalikes: Lookalikes | None = None,
    ):
        super().__init__()
        self.model = model
        self.loss = loss
        self.batch_recall = batch_recall
        self.miner = miner
        self.memory = memory
        self.lookalikes = lookalikes
        self.last_batch: LastBatch | None = None

    @property
    def loss_is_sharded(self) -> bool:
        """Whether this rank has some rows of the loss's weights only, whose gradient it has whole then."""
        return sharded_classes.is_sharded(self.loss)

    def forward(self, images: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """uint8 images (B, 3, H, W) of this rank, labels and rows of all ranks' -> scalar."""
        return self.compare(self.model(images), labels, rows)

    def compare(self, embeddings: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, D) of this rank's images, labels and rows of all ranks' -> scalar, the same on every rank.

        labels may be on the host, where some losses read them; the others have them on the device.
        """
        embeddings = distributed.all_gather(embeddings)
        on_host, labels = labels, labels.to(embeddings.device, non_blocking=True)
        self.last_batch = LastBatch(embeddings.detach(), labels, rows)
        # A loss takes what it has a use for alone.
        beside = {}
        if self.memory is not None:
            beside["reference"] = self.memory.reference(rows)
        if self.miner is not None:
            listed = self.lookalikes is not None
            embeddings, labels, beside["mined"] = self.miner(embeddings, labels, **beside, listed=listed)
            if self.miner.adds_rows:
                on_host = labels
        if self.lookalikes is not None:
            beside["mined"] = self.lookalikes(embeddings, labels, **beside)
        if getattr(self.loss, "reads_labels", False):
            labels = on_host
        value = self.loss(embeddings, labels, **beside)
        check_value(value, self.loss, learns=embeddings.requires_grad and torch.is_grad_enabled())
        return value

    def remember(self) -> None:
        """Let the last batch enter the memory: to be called where its step was taken, since it may be left out."""
        if self.memory is not None:
            self.memory.enter(*self.last_batch)

    def figures(self) -> dict[str, float]:
        """Figures of the last batch; reading them waits for the device, so ask only at display steps."""
        logs = getattr(self.loss, "logs", {})
        figures = {name: float(value.detach()) for name, value in logs.items()}
        if self.batch_recall:
            figures["recall"] = recall_at_k(self.last_batch.embeddings, self.last_batch.labels, ks=(1,))[1]
        return figures


def check_value(value: object, loss: nn.Module, learns: bool) -> None:
    """Raise InputError, naming the loss, unless what it gave is one number, with a gradient where something learns."""
    wrong = None
    if not isinstance(value, torch.Tensor):
        wrong = f"of type {type(value).__name__}"
    elif value.numel() != 1:
        wrong = f"of shape {tuple(value.shape)}; .mean() or .sum() makes one number of it"
    elif learns and not value.requires_grad:
        wrong = "without a gradient: the embeddings went through .detach(), torch.no_grad, numpy, or an integer"
    if wrong is not None:
        place = class_name(type(loss))
        raise InputError(f"{place}.forward gave a loss {wrong}; a loss is a tensor of one number, with its gradient")


def build_objective(
    model: nn.Module,
    loss: nn.Module,
    device: torch.device,
    batch_recall: bool = False,
    miner: Mining | None = None,
    memory: Memory | None = None,
    lookalikes: Lookalikes | None = None,
) -> Objective:
    """The Objective of these, on `device`, in the memory layout in which convolutions are fastest."""
    objective = Objective(model, loss, batch_recall, miner, memory, lookalikes)
    objective = objective.to(memory_format=torch.channels_last)
    return objective.to(device)


def build_loss(
    options: dict[str, object],
    embedding_size: int,
    num_classes: int,
    precision: str,
    *,
    loss_name: LossName,
    class_dim: Count | None = None,
    shard_classes: bool = False,
    matryoshka: Widths = (),
) -> nn.Module:
    """The loss of that name, on the CPU.

    Options:
        loss_name: one of {losses}; its own flags: --loss_name=NAME --help; pml:NAME is one of pytorch-metric-learning
        class_dim: checked against the number of train labels (default: no check)
        shard_classes: a part of the class weights on each rank (torchrun)
        matryoshka: widths, as 64,128: the loss is of so many first numbers of an embedding, too, which may be cut then

    options: those of the loss's own keywords, {name: value}. embedding_size, num_classes: what is compared and how many
    labels there are, for losses that ask. Raises InputError for another number of labels than `class_dim`, for what
    does not go with `shard_classes`, for a width that is no part of an embedding, and for a loss that asks for more.
    """
    if class_dim and class_dim != num_classes:
        raise InputError(f"class_dim is {class_dim}, but training uses {counted(num_classes, 'label')}")
    if shard_classes and loss_name.startswith(PREFIX):
        raise InputError(f"--shard_classes does not go with {loss_name}, whose weights are of one piece")
    several = distributed.world_size() > 1
    # The scaler would look for infinities on each rank alone, and ranks would disagree on a step.
    if shard_classes and several and precision == "fp16":
        raise InputError("--shard_classes does not go with --precision=fp16; take bf16 or fp32")
    if matryoshka and shard_classes:
        raise InputError("--matryoshka does not go with --shard_classes")
    if matryoshka and max(matryoshka) >= embedding_size:
        raise InputError(
            f"--matryoshka={plain(matryoshka)}: the embedding has {counted(embedding_size, 'number')}, and widths are "
            "below that"
        )

    def of_width(width: int) -> nn.Module:
        facts = {"embedding_size": width, "num_classes": num_classes}
        required = {name: facts.get(name) for name in LOSSES.requirements(loss_name)}
        more = [name for name in required if name not in facts]
        if more:
            raise InputError(
                f"the loss {loss_name} has {', '.join(more)} without a default, which only {' and '.join(facts)} may "
                "be; with one it is a flag"
            )
        return sharded_classes.build_loss(LOSSES[loss_name], shard_classes and several, **required, **options)

    if matryoshka:
        return NestedWidths(of_width, embedding_size, matryoshka)
    return of_width(embedding_size)


def tell_labels(loss: nn.Module, records: Records) -> None:
    """Tell losses over class weights, `loss` or what it holds, what the train list says of its labels.

    Where an option goes by that: raises InputError for a list without the categories that it goes by, and for a label
    that has several.
    """
    for part in loss.modules():
        if not isinstance(part, ClassLoss) or not (part.dynamic_margin or part.smooth_within_category):
            continue
        categories = None
        if part.smooth_within_category:
            categories = torch.from_numpy(label_categories(records, "--smooth_within_category").codes)
        part.set_labels(torch.from_numpy(records.vocabulary.counts), categories)
