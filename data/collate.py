"""Loaded rows to batches."""

import torch

from core.pairs import ImageTextBatch
from data.dataset import Loaded
from data.modality import Modality

# Inputs as the modality stacks them, label codes (B,) int64, indices (B,) int64.
Batch = tuple[torch.Tensor | ImageTextBatch, torch.Tensor, torch.Tensor]


def collate(modality: Modality, rows: list[Loaded]) -> Batch:
    """Rows to a batch. Images are (B, 3, H, W) uint8 in channels_last memory. A pair has two embeddings, so that its
    code and index stand there twice.
    """
    inputs, codes, indices = zip(*rows)
    batch, codes, indices = modality.collate(inputs), torch.tensor(codes), torch.tensor(indices)
    if isinstance(batch, ImageTextBatch):
        codes, indices = codes.repeat_interleave(2), indices.repeat_interleave(2)
    return batch, codes, indices


def collate_with_broken(
    modality: Modality, rows_and_broken: tuple[list[Loaded], dict[int, str]]
) -> tuple[Batch | None, dict[int, str]]:
    """As `collate`, of what SubstitutingDataset and DroppingDataset give: (batch or None, {index: sentence})."""
    rows, broken = rows_and_broken
    if not rows:
        return None, broken
    return collate(modality, rows), broken
