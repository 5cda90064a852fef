"""Samples to batches."""

import torch
from torch.utils.data import default_collate


def collate_with_broken(samples_and_broken):
    """As `collate`, of what ForgivingDataset and DroppingDataset give: (batch or None, {index: sentence})."""
    samples, broken = samples_and_broken
    return collate(samples) if samples else None, broken


def collate(samples):
    """Samples to (images (B, 3, H, W) uint8 in channels_last memory, labels (B,) int64, indices (B,) int64).

    A worker stacks them straight into the memory that it shares with the training process.
    """
    images, labels, indices = zip(*samples)
    return default_collate(images).permute(0, 3, 1, 2), torch.tensor(labels), torch.tensor(indices)
