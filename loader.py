"""Batches for the device: images of a list, transformed and stacked as uint8, loaded by worker processes."""

import os

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from cache import ByteCache
from decoding import open_image
from reader import box_of

TINY, MOST_WORKERS = 500, 8


class ImageDataset(Dataset):
    """Draws to (uint8 tensor (height, width, 3), label, index); each draw's augmentation follows from its own seed."""

    def __init__(self, images, labels, transform, decode, cache):
        self.images, self.labels, self.transform = images, labels, transform
        self.decode, self.cache = decode, cache

    def __len__(self):
        return len(self.images)

    def __getitem__(self, draw):
        path, box = self.images.paths[draw.index], box_of(self.images, draw.index)
        image = open_image(self.decode, self.cache.read(path), path, box)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transform(image), self.labels[draw.index], draw.index


def collate(samples):
    """Samples to (images (B, 3, H, W) uint8 in channels_last memory, labels (B,) int64, indices (B,) int64).

    A worker stacks them straight into the memory that it shares with the training process.
    """
    images, labels, indices = zip(*samples)
    return default_collate(images).permute(0, 3, 1, 2), torch.tensor(labels), torch.tensor(indices)


def worker_count(asked, count):
    """Processes to load `count` images: as asked, or for "auto" one a core beside the training thread, at least one
    and at most eight, and none for so few images that starting one takes longer than loading them. Training processes
    of torchrun share the cores."""
    if asked != "auto":
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if count < TINY else max(1, min(cores - 1, MOST_WORKERS))


def open_loader(images, labels, transform, batches, num_workers=0, pin_memory=False, decode="exact", cache_bytes=0):
    """A DataLoader over `batches` (an iterable of lists of Draw), decoding in `num_workers` processes (or "auto").

    decode: how a JPEG is opened (decoding.open_image); anything but "exact" needs a transform that crops.
    cache_bytes: memory for encoded images, shared by the processes.
    The processes live as long as one pass over `batches`, so an endless one, as in training, keeps them. Tests start
    theirs anew: idle ones would hold on to the training process's memory as it was when they were forked.
    """
    return DataLoader(
        ImageDataset(images, labels, transform, decode, ByteCache(images.paths, cache_bytes)),
        batch_sampler=batches,
        num_workers=worker_count(num_workers, len(images)),
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_single_thread,
        generator=torch.Generator(),  # else every new iterator draws from the run's own random numbers
    )


def _single_thread(worker):
    cv2.setNumThreads(0)
