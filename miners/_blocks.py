"""What miners look at: distances of a batch to columns some rows at a time, and who is whose positive."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch

from core.errors import InputError
from core.text import counted, plural
from losses._distances import Distance, placed
from losses._mined import Reference, column_labels


class Block(NamedTuple):
    """Rows of a batch from number `first` on, against all columns: distances (m, C), positives and negatives (m, C)."""

    first: int
    distances: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor

    def pairs(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(anchors (P,), columns (P,)) of the pairs that a mask (m, C) chooses, in order of anchors."""
        rows, columns = chosen.nonzero(as_tuple=True)
        return rows + self.first, columns


def blocks_of(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    reference: Reference | None,
    distance: Distance = "euclidean",
    unit_length: bool = False,
) -> Iterator[Block]:
    """Blocks of rows of embeddings (B, D) with labels (B,), against the batch and the reference behind it.

    A row is no positive of its own, and neither is a reference row that shows the same image.
    """
    points = placed(embeddings, reference, distance, unit_length)
    everyone = column_labels(labels, reference)
    for block in points.blocks():
        same = labels[block, None] == everyone
        positives = same.clone()
        positives.diagonal(block.start).fill_(False)
        if reference is not None:
            positives[:, points.batch :] &= reference.batch_images[block, None] != reference.images
        yield Block(block.start, points.table(block), positives, ~same)


def farthest(distances: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(distance (m,), column (m,)) of each row's farthest candidate; a row without one has the distance -inf."""
    return torch.where(candidates, distances, -torch.inf).max(1)


def nearest(distances: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(distance (m,), column (m,)) of each row's nearest candidate; a row without one has the distance inf."""
    return torch.where(candidates, distances, torch.inf).min(1)


def concatenated(portions: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    """[(a, b), (c, d)] to [a and c, b and d]: what all blocks chose."""
    if len(portions) == 1:
        return list(portions[0])
    return [torch.cat(tensors) for tensors in zip(*portions, strict=True)]


def check_batch(labels: torch.Tensor, reference: Reference | None, miner: str) -> None:
    """Raise InputError unless each label of the batch occurs twice and there are two; `miner` is what asks for it.

    On the CPU only: elsewhere reading labels back would stall the device. A reference may have what a batch lacks.
    """
    if labels.device.type != "cpu" or reference is not None:
        return
    counts = Counter(labels.tolist())
    if len(counts) == 1:
        raise InputError(
            f"all {counted(len(labels), 'row')} {plural(len(labels), 'has', 'have')} label {labels[0]}; the miner "
            f"{miner} needs two labels in a batch"
        )
    if 1 in counts.values():
        lone = min(label for label, count in counts.items() if count == 1)
        raise InputError(
            f"label {lone} occurs once among the {counted(len(labels), 'row')}; the miner {miner} needs two images of "
            "each label"
        )
