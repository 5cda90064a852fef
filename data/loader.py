"""Batches for the device: images of a list, transformed and stacked as uint8, loaded by worker processes."""

import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

import distributed
from core.console import log
from data.cache import Cache
from data.collate import collate, collate_with_broken
from data.dataset import ImageDataset
from data.image.transforms import TestTransform
from data.samplers.in_order import InOrder
from data.substitutes import DroppingDataset, ForgivingDataset
from data.workers import leave_the_group, loading_failure

TINY, MOST_WORKERS = 500, 8
SHARED_MEMORY, PREFETCHED = Path("/dev/shm"), 2  # where batches pass from process to process; as torch has it


class ImageLoader(DataLoader):
    """Batches of images; whatever happens to the processes that load them ends in an InputError.

    on_bad: None, or a function of (index, sentence) that is told what of a batch could not be read; the dataset gives
    both then. A batch of which nothing is left is passed over.
    """

    def __init__(self, *settings, on_bad=None, **more):
        super().__init__(*settings, **more)
        self.on_bad = on_bad

    def __iter__(self):
        try:
            for batch in super().__iter__():
                if self.on_bad is not None:
                    batch, broken = batch
                    for index, sentence in broken.items():
                        self.on_bad(index, sentence)
                if batch is not None:
                    yield batch
        except (RuntimeError, OSError, EOFError) as error:
            raise loading_failure(error) or error from None


def worker_count(asked, count):
    """Processes to load `count` images: as asked, or for "auto" one a core beside the training thread, at least one
    and at most eight, and none for so few images that starting one takes longer than loading them. Training processes
    of torchrun share the cores."""
    if asked != "auto":
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if count < TINY else max(1, min(cores - 1, MOST_WORKERS))


def workers_that_fit(workers: int, batch_bytes: int) -> int:
    """So many loading processes, or fewer where the memory that they share does not hold their batches.

    batch_bytes: of one batch; a process makes PREFETCHED of them ahead, and one is in use. Containers often have 64 MB.
    """
    if not workers or not batch_bytes or not SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fitting = max(0, free // batch_bytes - 1) // PREFETCHED
    if fitting >= workers:
        return workers
    so = f"{fitting} of {workers} loading processes are started" if fitting else "this process loads images itself"
    room, batch = f"{free / 1e6:,.0f} MB", f"{batch_bytes / 1e6:,.1f} MB"
    log(
        f"note: {SHARED_MEMORY} has room for {room} and a batch takes {batch}, so {so}; docker run --shm-size=2g gives "
        "it more"
    )
    return fitting


def open_loader(
    images,
    labels,
    transform,
    batches,
    num_workers=0,
    pin_memory=False,
    decode="exact",
    cache_bytes=0,
    cache_kind="encoded",
    on_bad=None,
    drops=False,
    batch_bytes=0,
):
    """A loader over `batches` (an iterable of lists of Draw), decoding in `num_workers` processes (or "auto").

    decode: how a JPEG is opened (decoding.open_image); anything but "exact" needs a transform that crops.
    cache_bytes: memory, shared by the processes, for images of `cache_kind`, encoded or decoded (cache.py); the second
    opens all of them whole, kept or not. on_bad: None, and an image that cannot be read is an InputError; or a function
    of its index and a sentence, called in every batch that has to do without it: another image takes its place, or with
    `drops` none does. batch_bytes: of one batch, where it is known, for `workers_that_fit`.
    The processes live as long as one pass over `batches`, so an endless one, as in training, keeps them. Tests start
    theirs anew: idle ones would hold on to the training process's memory as it was when they were forked.
    """
    kind = ImageDataset if on_bad is None else DroppingDataset if drops else ForgivingDataset
    dataset = kind(images, labels, transform, decode, Cache(cache_kind, images.paths, cache_bytes))
    return ImageLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers_that_fit(worker_count(num_workers, len(images)), batch_bytes),
        collate_fn=collate if on_bad is None else collate_with_broken,
        pin_memory=pin_memory,
        worker_init_fn=_set_up_worker,
        generator=torch.Generator(),  # else every new iterator draws from the run's own random numbers
        on_bad=on_bad,
    )


def open_test_loader(records, model_settings, batch_size, num_workers, device, on_bad=None):
    """The images in order, in the test geometry; several ranks have the batches in turn.

    on_bad(index, sentence): None, or told of images that cannot be read, which are left out of their batches then.
    """
    shape = model_settings["image_shape"]
    transform = TestTransform(*shape[1:], model_settings["resize_short_size"])
    batches = InOrder(len(records), batch_size, distributed.rank(), distributed.world_size())
    codes = np.zeros(len(records), np.int64) if records.labels is None else records.vocabulary.codes
    loading = {"on_bad": on_bad, "drops": True, "batch_bytes": min(batch_size, len(records)) * math.prod(shape)}
    return open_loader(records, codes, transform, batches, num_workers, device.type == "cuda", **loading)


def _set_up_worker(worker):
    cv2.setNumThreads(0)
    leave_the_group()
