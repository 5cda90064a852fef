"""From a list to batches for the device: what training and tests load, by worker processes."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Literal, Protocol

import cv2
import torch
from torch.utils.data import DataLoader

import distributed
from core.errors import InputError
from core.types import ByteSize, Fractions, SomeOf, WorkerCount
from data.audio.modality import AudioInput, AudioModality
from data.cache import Cache
from data.collate import Batch, collate, collate_with_broken
from data.dataset import RecordDataset
from data.image.decode import choose_decoder
from data.image.modality import ImageModality
from data.image.transforms import TestTransform, TrainTransform
from data.mixed import InOrderByModality, MixedModality
from data.modality import Modality, refuse_other_modality
from data.pair_modality import PairModality
from data.records import Records
from data.samplers import BatchSampler, InOrder, RankBatches, Sample
from data.substitutes import DroppingDataset, SubstitutingDataset
from data.text.modality import TextModality, Tokenizer
from data.workers import leave_process_group, loading_failure, worker_count, workers_that_fit

# Told of what could not be read: its index in the list, and a sentence.
OnBad = Callable[[int, str], None]
TEXT_BYTES = 8 * 512  # of a text in a batch, whose tokens are at the most so many


class InputSettings(Protocol):
    """What loading has to know of a model: the modality that it takes, the size of images, the tokenizer of texts, the
    rate and length of sounds."""

    @property
    def modality(self) -> str:
        """image, text or audio."""

    def open_tokenizer(self) -> Tokenizer:
        """Of a model that takes texts."""

    @property
    def audio_input(self) -> AudioInput:
        """Of a model that takes sounds."""

    @property
    def clip_seconds(self) -> float:
        """How much of a sound it takes."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels."""

    @property
    def resize_short_size(self) -> int:
        """The short side that a centre crop is cut from; 0 is the crop's longer side."""

    @property
    def resize_filter(self) -> str:
        """How images come to it, one of data.image.resize.FILTERS."""

    @property
    def resize_mode(self) -> str:
        """Whether images are cropped to their size or squashed to it."""


class TowersSettings(Protocol):
    """As InputSettings of each modality that a model takes; of most it is one."""

    @property
    def towers(self) -> Mapping[str, InputSettings]:
        """{modality: settings}."""


def open_train_loader(
    records: Records,
    sampler: BatchSampler,
    model_settings: TowersSettings,
    device: torch.device,
    on_bad: OnBad | None = None,
    *,
    num_workers: WorkerCount = 2,
    augment: Annotated[tuple[str, ...], SomeOf("data.image.augmentations:AUGMENTATIONS")] = ("crop", "flip"),
    crop_scale: Fractions = (0.08, 1.0),
    decode: Literal["auto", "exact", "opencv", "simplejpeg"] = "auto",
    cache_bytes: ByteSize = 0,
    cache_kind: Literal["encoded", "decoded"] = "encoded",
    augment_sounds: Annotated[tuple[str, ...], SomeOf("data.audio.augmentations:AUGMENTATIONS")] = ("window", "gain"),
) -> "BatchLoader":
    """Endless batches of a train list, as its sampler has them. All but num_workers and augment_sounds is about
    images.

    Options:
        num_workers: processes that load images; 0: none beside this one; or auto
        augment: comma-separated, any of crop, flip, affine, colour, grey, randaugment, erasing; or none
        crop_scale: share of the area that crop keeps
        decode: JPEGs: one of auto, exact, opencv, simplejpeg
        cache_bytes: memory that keeps train images, as 2GB
        cache_kind: how: encoded; or decoded, for small sets
        augment_sounds: of sounds, comma-separated, any of window, gain, noise, silence, bands; or none

    sampler: the batches of all ranks, of which this one loads its part. on_bad: told of images that cannot be
    read, for which others are loaded then; None, and one of them is an InputError. Raises InputError as
    `choose_decoder` does, and for a cache of a list that stays on the disk.
    """
    if cache_bytes and records.vocabulary.is_stored:
        raise InputError(
            f"--cache_bytes keeps images of a list in memory, but {records.source} stays on the disk; leave it out"
        )
    towers = model_settings.towers
    modalities: dict[str, Modality] = {}
    if "text" in towers:
        modalities["text"] = TextModality(towers["text"].open_tokenizer())
    if "audio" in towers:
        modalities["audio"] = _audio_modality(towers["audio"], augment_sounds)
    if "image" in towers:
        images = towers["image"]
        height, width = images.image_shape[1:]
        transform = TrainTransform(
            height,
            width,
            images.resize_short_size,
            augment,
            crop_scale,
            images.resize_filter,
            images.resize_mode,
        )
        decoder = choose_decoder(decode, cache_kind)
        if "crop" not in augment:
            decoder = "exact"  # only a crop can do with a coarser image
        modalities["image"] = ImageModality(transform, decoder, Cache(cache_kind, records.paths, cache_bytes))
    if len(modalities) == 1:
        refuse_other_modality(records, *modalities)
        modality = next(iter(modalities.values()))
    else:
        # A row is a pair then, and stands in the list with its image.
        refuse_other_modality(records, "image")
        modality = PairModality(modalities["image"], modalities["text"])
    batches = RankBatches(sampler, distributed.rank(), distributed.world_size())
    rank_batch = math.ceil(sampler.batch_size / distributed.world_size())
    return open_loader(
        records,
        modality,
        batches,
        num_workers,
        pin_memory=device.type == "cuda",
        on_bad=on_bad,
        batch_bytes=rank_batch * sum(map(_sample_bytes, towers.values())),
    )


def open_test_loader(
    records: Records,
    model_settings: TowersSettings,
    batch_size: int,
    num_workers: int | str,
    device: torch.device,
    on_bad: OnBad | None = None,
) -> "BatchLoader":
    """The rows of a list in order, images in the test geometry; several ranks have the batches in turn.

    on_bad: told of images that cannot be read, which are left out of their batches then; None, and one of them is an
    InputError.
    """
    towers = model_settings.towers
    refuse_other_modality(records, *towers)
    modalities = {name: open_test_modality(tower) for name, tower in towers.items()}
    ranks = (distributed.rank(), distributed.world_size())
    if len(towers) == 1:
        modality = next(iter(modalities.values()))
        batches = InOrder(len(records), batch_size, *ranks)
    else:
        modality = MixedModality(modalities)
        batches = InOrderByModality(records, batch_size, *ranks)
    return open_loader(
        records,
        modality,
        batches,
        num_workers,
        pin_memory=device.type == "cuda",
        on_bad=on_bad,
        drops_bad=True,
        batch_bytes=min(batch_size, len(records)) * max(map(_sample_bytes, towers.values())),
    )


def open_test_modality(model_settings: InputSettings) -> Modality:
    """How a model loads what it is tested on."""
    if model_settings.modality == "text":
        return TextModality(model_settings.open_tokenizer())
    if model_settings.modality == "audio":
        return _audio_modality(model_settings)
    return ImageModality(TestTransform.of(model_settings))


def _audio_modality(model_settings: InputSettings, augment: Collection[str] = ()) -> AudioModality:
    sound = model_settings.audio_input
    return AudioModality(sound.rate, model_settings.clip_seconds, sound.fills, augment)


def _sample_bytes(model_settings: InputSettings) -> int:
    """Bytes that one row takes in a batch, about."""
    if model_settings.modality == "text":
        return TEXT_BYTES
    if model_settings.modality == "audio":
        return round(4 * model_settings.audio_input.rate * model_settings.clip_seconds)
    return math.prod(model_settings.image_shape)


def open_loader(
    records: Records,
    modality: Modality,
    batches: Iterable[list[Sample]],
    num_workers: int | str = 0,
    pin_memory: bool = False,
    on_bad: OnBad | None = None,
    drops_bad: bool = False,
    batch_bytes: int = 0,
) -> "BatchLoader":
    """A loader over `batches`, in `num_workers` processes (or "auto").

    on_bad: None, and what cannot be read is an InputError; or called in every batch that has to do without it: another
    row takes its place, or with `drops_bad` none does. batch_bytes: of one batch, where it is known, for
    `workers_that_fit`.

    The processes live as long as one pass over `batches`, so an endless one, as in training, keeps them. Tests start
    theirs anew: idle ones would hold on to the training process's memory as it was when they were forked.
    """
    if on_bad is None:
        dataset = RecordDataset(records, modality)
    elif drops_bad:
        dataset = DroppingDataset(records, modality)
    else:
        dataset = SubstitutingDataset(records, modality)
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers_that_fit(worker_count(num_workers, len(records)), batch_bytes),
        collate_fn=partial(collate if on_bad is None else collate_with_broken, modality),
        pin_memory=pin_memory,
        worker_init_fn=_set_up_worker,
        generator=torch.Generator(),  # else every new iterator draws from the run's own random numbers
        on_bad=on_bad,
    )


def _set_up_worker(_worker: int) -> None:
    cv2.setNumThreads(0)  # processes share the cores already
    leave_process_group()


class BatchLoader(DataLoader):
    """Batches (inputs, label codes, indices); whatever happens to the processes that load them is an InputError.

    on_bad: None, or told of what of a batch could not be read; the dataset gives both then. A batch of which nothing is
    left is passed over.
    """

    def __init__(self, dataset: RecordDataset, *, on_bad: OnBad | None = None, **settings):
        super().__init__(dataset, **settings)
        self.on_bad = on_bad

    def __iter__(self) -> Iterator[Batch]:
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
