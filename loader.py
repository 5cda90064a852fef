"""Batches for the device: images of a list, transformed and stacked as uint8, loaded by worker processes."""

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from reader import load


class ImageDataset(Dataset):
    """Draws to (uint8 tensor (height, width, 3), label, index); each draw's augmentation follows from its own seed."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, draw):
        image = load(self.images, draw.index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transform(image), self.labels[draw.index], draw.index


def collate(samples):
    """Samples to (images (B, 3, H, W) uint8 in channels_last memory, labels (B,) int64, indices (B,) int64)."""
    images, labels, indices = zip(*samples)
    return torch.stack(images).permute(0, 3, 1, 2), torch.tensor(labels), torch.tensor(indices)


def open_loader(images, labels, transform, batches, num_workers=0, pin_memory=False):
    """A DataLoader over `batches` (an iterable of lists of Draw), decoding in `num_workers` processes."""
    return DataLoader(
        ImageDataset(images, labels, transform),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_single_thread,
        generator=torch.Generator(),  # else every new iterator draws from the run's own random numbers
    )


def _single_thread(worker):
    cv2.setNumThreads(0)
