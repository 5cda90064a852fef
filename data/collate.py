"""Loaded rows to batches."""

import torch

from data.dataset import Loaded
from data.modality import Modality

# Inputs as the modality stacks them, label codes (B,) int64, indices (B,) int64.
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def collate(modality: Modality, rows: list[Loaded]) -> Batch:
    """Rows to a batch. Images are (B, 3, H, W) uint8 in channels_last memory."""
    inputs, codes, indices = zip(*rows)
    return modality.collate(inputs), torch.tensor(codes), torch.tensor(indices)


def collate_with_broken(
    modality: Modality, rows_and_broken: tuple[list[Loaded], dict[int, str]]
) -> tuple[Batch | None, dict[int, str]]:
    """As `collate`, of what SubstitutingDataset and DroppingDataset give: (batch or None, {index: sentence})."""
    rows, broken = rows_and_broken
    if not rows:
        return None, broken
    return collate(modality, rows), broken
