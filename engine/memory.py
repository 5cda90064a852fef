"""A memory of embeddings: those of earlier batches, with which each new one is compared, too.

Wang et al., 2020, Cross-Batch Memory for Embedding Learning, arXiv 1912.06798: once a network drifts slowly, what it
made of an image some steps ago still stands for the image.
"""

from collections.abc import Callable

import torch

import distributed
from core.console import log
from core.errors import InputError
from core.types import Count
from core.text import counted
from data.loader import InputSettings, open_test_loader
from data.records import Records
from embeddings.embed import embed_batches
from losses import LOSSES
from losses._mined import Reference
from models import Embedder


class Memory:
    """The newest `size` embeddings (size, D) that have entered, without gradient, the same on every rank.

    It is a ring: a batch is written over the oldest rows. start: so many batches enter before a loss is given any.
    filled_first: it is to hold images of the train list before the first step (`fill_memory`).
    """

    def __init__(
        self, size: int, width: int, device: torch.device | str = "cpu", start: int = 0, filled_first: bool = False
    ):
        self.size = size
        self.start = start
        self.filled_first = filled_first
        self.embeddings = torch.zeros(size, width, device=device)
        self.labels = torch.zeros(size, dtype=torch.int64, device=device)
        self.images = torch.zeros(size, dtype=torch.int64, device=device)
        self.next = 0  # the row that is written next
        self.count = 0  # rows that hold something
        self.batches = 0

    def reference(self, batch_images: torch.Tensor) -> Reference | None:
        """What a batch of these images (B,) is compared with beside itself; None while there is nothing."""
        if not self.count or self.batches < self.start:
            return None
        rows = slice(self.count)
        return Reference(self.embeddings[rows], self.labels[rows], self.images[rows], batch_images)

    def enter(self, embeddings: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> None:
        """Write rows over the oldest ones; of more than there is room for the last."""
        newest = slice(max(0, len(labels) - self.size), None)
        embeddings, labels, images = embeddings[newest], labels[newest], images[newest]
        positions = (self.next + torch.arange(len(labels), device=self.labels.device)) % self.size
        self.embeddings[positions] = embeddings.detach().to(self.embeddings.dtype)
        self.labels[positions] = labels
        self.images[positions] = images
        self.next = (self.next + len(labels)) % self.size
        self.count = min(self.size, self.count + len(labels))
        self.batches += 1

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint holds: rows stay where they are, since sums go by their order."""
        rows = slice(self.count)
        return {
            "size": self.size,
            "embeddings": self.embeddings[rows].clone(),
            "labels": self.labels[rows].clone(),
            "images": self.images[rows].clone(),
            "next": self.next,
            "batches": self.batches,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Put back what `state_dict` gave. Raises ValueError for a memory of another size or width."""
        count, width = state["embeddings"].shape
        if state["size"] != self.size or width != self.embeddings.shape[1]:
            asked = f"{self.size} x {self.embeddings.shape[1]}"
            raise ValueError(f"its memory is of {state['size']} x {counted(width, 'number')}, not {asked}")
        rows = slice(count)
        self.embeddings[rows] = state["embeddings"].to(self.embeddings)
        self.labels[rows] = state["labels"].to(self.labels)
        self.images[rows] = state["images"].to(self.images)
        self.count = count
        self.next = int(state["next"])
        self.batches = int(state["batches"])


def build_memory(
    loss_name: str,
    images: int,
    width: int,
    device: torch.device,
    *,
    memory_size: Count = 0,
    memory_start: Count = 0,
    memory_fill: bool = False,
) -> Memory | None:
    """The memory that is asked for, empty; None without.

    Options:
        memory_size: embeddings of earlier batches to compare with, too; 0: none
        memory_start: batches that enter the memory before it is used
        memory_fill: fill the memory with train images before the first step

    images: those of the train list; width: of an embedding. Raises InputError for a loss that has no use for a memory,
    and for more rows than there are images.
    """
    if not memory_size:
        if memory_start or memory_fill:
            raise InputError("there is no memory to start or fill; give --memory_size, such as the train list's images")
        return None
    if not LOSSES.fact(loss_name, "memory", False):
        able = ", ".join(LOSSES.names(memory=True))
        raise InputError(
            f"memory_size is {memory_size}, but {loss_name} compares a batch's images only; with a memory go {able}"
        )
    if memory_size > images:
        raise InputError(f"memory_size is {memory_size}, more than the train list's {counted(images, 'image')}")
    return Memory(memory_size, width, device, memory_start, memory_fill)


def refuse_filling(memory: Memory | None) -> None:
    """Raise InputError for a memory that is to be filled first, where a run has features in place of images."""
    if memory is not None and memory.filled_first:
        raise InputError("--memory_fill embeds train images, and --features train without any; leave it out")


def fill_memory(
    memory: Memory | None,
    model: Embedder,
    records: Records,
    settings: InputSettings,
    batch_size: int,
    num_workers: int | str,
    seed: int,
    on_bad: Callable[[int, str], None] | None = None,
) -> None:
    """Let images of the train list enter a memory that is to be filled first, as `model` sees them in a test.

    They are in an order of their own, so that what the first batches write over is a bit of every label. No random
    number of the run is drawn. on_bad: as open_test_loader has it. All ranks call it together.
    """
    if memory is None or not memory.filled_first:
        return
    device = memory.labels.device
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[: memory.size]
    on_bad_row = None
    if on_bad is not None:

        def on_bad_row(row: int, sentence: str) -> None:
            on_bad(int(order[row]), sentence)

    loader = open_test_loader(records.take(order.numpy()), settings, batch_size, num_workers, device, on_bad_row)
    embeddings = torch.zeros(len(order), model.embedding_size)
    images = torch.full_like(order, -1)
    for rows, batch in embed_batches(model, loader, device):
        embeddings[rows] = batch
        images[rows] = order[rows]
    # The first rank has all of them, but for those that cannot be read.
    distributed.broadcast_tensors([embeddings, images])
    is_there = images >= 0
    labels = torch.from_numpy(records.vocabulary.codes)[images]
    memory.enter(embeddings[is_there].to(device), labels[is_there].to(device), images[is_there].to(device))
    memory.batches = 0
    log(f"the memory holds {memory.count} of {counted(len(records), 'train image')}")
