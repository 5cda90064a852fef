"""Batches for the device: images of a list, transformed and stacked as uint8, loaded by worker processes."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from cache import Cache
from decoding import cut, open_image
from engine.run import say
from engine.stop import leave_the_group
from engine.workers import loading_failure
from errors import InputError
from samplers import Draw, Share

TINY, MOST_WORKERS = 500, 8
SHARED_MEMORY, PREFETCHED = Path("/dev/shm"), 2  # where batches pass from process to process; as torch has it


class ImageDataset(Dataset):
    """Draws to (uint8 tensor (height, width, 3), label, index); each draw's augmentation follows from its own seed."""

    def __init__(self, images, labels, transform, decode, cache):
        self.images, self.labels, self.transform = images, labels, transform
        self.decode, self.cache = decode, cache

    def __len__(self):
        return len(self.images)

    def __getitem__(self, draw):
        path, box = self.images.paths[draw.index], self.images.box_of(draw.index)
        read = self.cache.read(path)
        image = open_image(self.decode, read, path, box) if self.cache.kind == "encoded" else cut(read, path, box)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transform(image), self.labels[draw.index], draw.index


class ForgivingDataset(ImageDataset):
    """As ImageDataset, but for an image that cannot be read another one is loaded.

    It is one of the same label, in an order that follows from the draw's seed; where none of these can be read, one of
    a label that is not in the batch, the same label for all of its draws. So a batch keeps its size, what belonged
    together still does, and all of it follows from the draws and the files, whoever loads it and on how many ranks.
    """

    def __init__(self, *settings):
        super().__init__(*settings)
        self.names, counts = np.unique(self.labels, return_counts=True)
        self.by_label = np.split(np.argsort(self.labels, kind="stable"), np.cumsum(counts)[:-1])

    def __getitems__(self, draws):
        """(samples, {index: sentence} of what could not be read) of a batch, or of a rank's Share of one.

        Raises InputError if nothing is left.
        """
        broken = {}
        samples = [self._of_label(draw, broken) for draw in draws]
        if not all(samples):
            batch, start = (draws.batch, draws.start) if isinstance(draws, Share) else (draws, 0)
            samples = self._of_others(batch, dict(enumerate(samples, start)), broken)[start : start + len(draws)]
        return samples, broken

    def _of_others(self, batch, loaded, broken):
        """Samples of a whole batch, in which labels that have no image at all are replaced.

        loaded: what was tried already, by its place. All ranks have to look at all of it to agree on the labels.
        """
        instead, samples = {}, []
        taken = {self.labels[draw.index] for draw in batch}
        for place, draw in enumerate(batch):
            label = self.labels[draw.index]
            sample = loaded[place] if place in loaded else self._of_label(draw, broken)
            for other in [] if sample else instead.get(label) or self._others(label, taken):
                sample = self._one_of(other, draw.seed, broken)
                if sample:
                    instead[label] = [other]
                    taken.add(other)
                    break
            if not sample:
                raise InputError(
                    f"{broken[draw.index]}; nor can another be taken, of its label or from outside the batch"
                )
            samples.append(sample)
        return samples

    def _of_label(self, draw, broken):
        """The sample of a draw, or of another image of its label; None where that has none."""
        return self._try(draw, broken) or self._one_of(self.labels[draw.index], draw.seed, broken)

    def _try(self, draw, broken):
        """The sample of a draw; None, and `broken` told, where its image cannot be read."""
        if draw.index in broken:
            return None
        try:
            return self[draw]
        except InputError as error:
            broken[draw.index] = str(error)
            return None

    def _one_of(self, label, seed, broken):
        rows = self.by_label[np.searchsorted(self.names, label)]
        draws = (Draw(int(row), seed) for row in np.random.default_rng(seed).permutation(rows))
        return next((sample for sample in (self._try(draw, broken) for draw in draws) if sample), None)

    def _others(self, label, taken):
        """The labels after `label`, round to those before it, that are not `taken`."""
        place = np.searchsorted(self.names, label)
        return [other for other in np.roll(self.names, -place - 1)[:-1] if other not in taken]


class DroppingDataset(ImageDataset):
    """As ImageDataset, but an image that cannot be read is missing from its batch."""

    def __getitems__(self, draws):
        """(samples of what can be read, {index: sentence} of the rest)."""
        samples, broken = [], {}
        for draw in draws:
            try:
                samples.append(self[draw])
            except InputError as error:
                broken[draw.index] = str(error)
        return samples, broken


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
    say(
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


def _set_up_worker(worker):
    cv2.setNumThreads(0)
    leave_the_group()
