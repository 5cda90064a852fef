"""Datasets of sounds: samples at one rate, read and resampled by data/audio/."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compat.oml._errors import require
from compat.oml.const import (
    AUDIO_EXTENSIONS,
    BLACK,
    DEFAULT_SAMPLE_RATE,
    INDEX_KEY,
    INPUT_TENSORS_KEY,
    LABELS_KEY,
    MAX_AUDIO_LEN,
    PATHS_COLUMN,
    START_TIME_COLUMN,
    TColor,
)
from compat.oml.datasets._items import checked_extra, with_extra
from compat.oml.datasets.dataframe import (
    DFLabeledDataset,
    DFQueryGalleryDataset,
    DFQueryGalleryLabeledDataset,
    ShowsItems,
)
from compat.oml.interfaces.datasets import IBaseDataset, IHTMLVisualizableDataset, IVisualizableDataset
from compat.oml.utils.audios import block_with_player, visualize_audio
from compat.oml.utils.images.images import draw_bbox
from core.errors import InputError
from core.items import clip_item
from core.text import counted
from data.audio.files import Sound, first_frame
from data.audio.modality import read_resampled
from data.audio.picture import draw_sound_picture
from data.audio.resample import Resampler


class AudioBaseDataset(IBaseDataset, IVisualizableDataset, IHTMLVisualizableDataset):
    """Sounds by their paths, each from a second on where `start_times` says so, as tensors (1, samples) float32.

    sample_rate: samples a second. max_num_seconds: of each item, with silence in front of what is shorter; None: all of
    it, so that items differ in length. Channels are always averaged. spec_repr_func: from an item's samples to the
    spectrogram (bands, frames) by which it is shown; None: that of the house. Raises RefusedAssertion for what cannot
    be.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        dataset_root: str | Path | None = None,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        max_num_seconds: float | None = MAX_AUDIO_LEN,
        convert_to_mono: bool = True,
        start_times: Sequence[float] | None = None,
        spec_repr_func: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        paths = [str(Path(dataset_root or "", path)) for path in paths]
        starts = [0.0] * len(paths) if start_times is None else [float(start) for start in start_times]
        require(len(starts) == len(paths), f"{counted(len(starts), 'start time')} for {counted(len(paths), 'sound')}")
        require(sample_rate > 0, f"sample_rate={sample_rate} is not above 0")
        require(max_num_seconds is None or max_num_seconds > 0, f"max_num_seconds={max_num_seconds} is not above 0")
        require(convert_to_mono is True, "convert_to_mono=False has no counterpart: networks here hear one channel")
        for path in paths:
            kinds = ", ".join(AUDIO_EXTENSIONS)
            require(Path(path).suffix in AUDIO_EXTENSIONS, f"{path!r} is no sound by its name; there are: {kinds}")
        self.extra_data = checked_extra(extra_data, len(paths))
        self.input_tensors_key = input_tensors_key
        self.index_key = index_key
        self._paths = paths
        self._starts = starts
        self._sample_rate = sample_rate
        self._max_num_seconds = max_num_seconds
        self._spec_repr_func = spec_repr_func

    def __len__(self) -> int:
        return len(self._paths)

    def get_audio(self, item: int) -> torch.Tensor:
        """The samples of an item, (1, samples) float32. Raises InputError where it begins behind its sound's end."""
        with Sound(self._paths[item]) as sound:
            first_frame(sound, self._starts[item])
            resampler = Resampler(sound.rate, self._sample_rate)
            first = int(self._starts[item] * self._sample_rate)
            count = max(resampler.length(sound.frames) - first, 1)
            if self._max_num_seconds is None:
                return torch.from_numpy(read_resampled(sound, resampler, first, count).copy())[None]
            wanted = int(self._max_num_seconds * self._sample_rate)
            samples = read_resampled(sound, resampler, first, min(count, wanted))
        return torch.from_numpy(np.pad(samples, (wanted - len(samples), 0)))[None]

    def __getitem__(self, item: int) -> dict[str, Any]:
        data = {self.input_tensors_key: self.get_audio(item), self.index_key: item}
        return with_extra(data, self.extra_data, item)

    def fingerprint(self) -> Iterator[bytes]:
        """What decides the items: rate, length, beginnings and the content of each file."""
        yield f"{self._sample_rate} {self._max_num_seconds} {self._starts}".encode()
        for path in self._paths:
            yield hashlib.sha256(Path(path).read_bytes()).digest()

    def visualize(self, item: int, color: TColor = BLACK) -> np.ndarray:
        if self._spec_repr_func is not None:
            return visualize_audio(self._spec_repr_func(self.get_audio(item)), color)
        return draw_bbox(draw_sound_picture(clip_item(self._paths[item], self._starts[item])), None, color)

    def visualize_as_html(self, item: int, title: str, color: TColor = BLACK) -> str:
        """A block of HTML with the item's spectrogram and a player of its first seconds."""
        seconds = self._max_num_seconds or MAX_AUDIO_LEN
        samples = self.get_audio(item)[0, : int(seconds * self._sample_rate)].numpy()
        return block_with_player(self.visualize(item, color), samples, self._sample_rate, title)


class ShowsSounds(ShowsItems, IHTMLVisualizableDataset):
    """Shows an item as the dataset of sounds does, also with a player."""

    def visualize_as_html(self, item: int, title: str, color: TColor = BLACK) -> str:
        return self._dataset.visualize_as_html(item=item, title=title, color=color)


class _LabeledSounds(ShowsSounds):
    """What both kinds of labelled sounds take; the kind, a class behind this one, gets the sounds and their table."""

    def __init__(
        self,
        df: Any,
        dataset_root: str | Path | None = None,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
        labels_key: str = LABELS_KEY,
        **sounds: Any,
    ) -> None:
        super().__init__(_sounds_of(df, dataset_root, input_tensors_key, index_key, sounds), df, extra_data, labels_key)


class AudioLabeledDataset(_LabeledSounds, DFLabeledDataset):
    """Sounds of a table with labels, to train on."""


class AudioQueryGalleryLabeledDataset(_LabeledSounds, DFQueryGalleryLabeledDataset):
    """Sounds of a table with labels, queries and galleries."""


class AudioQueryGalleryDataset(DFQueryGalleryDataset, ShowsSounds):
    """Sounds of a table with queries and galleries, without labels."""

    def __init__(
        self,
        df: Any,
        dataset_root: str | Path | None = None,
        extra_data: Mapping[str, Any] | None = None,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        index_key: str = INDEX_KEY,
        **sounds: Any,
    ) -> None:
        super().__init__(_sounds_of(df, dataset_root, input_tensors_key, index_key, sounds), df, extra_data)


def _sounds_of(
    df: Any, dataset_root: str | Path | None, input_tensors_key: str, index_key: str, sounds: Mapping[str, Any]
) -> AudioBaseDataset:
    """The sounds of a table; `sounds`: the rate and the like of AudioBaseDataset."""
    require(PATHS_COLUMN in df.columns, f"the table has no column {PATHS_COLUMN}")
    starts = parse_start_times(df)
    paths = np.asarray(df[PATHS_COLUMN]).tolist()
    return AudioBaseDataset(paths, dataset_root, None, input_tensors_key, index_key, start_times=starts, **sounds)


def parse_start_times(df: Any) -> list[float] | None:
    """The second at which each of a table's sounds begins, 0 where none is given; None without such a column."""
    if START_TIME_COLUMN not in df.columns:
        return None
    try:
        return np.nan_to_num(np.asarray(df[START_TIME_COLUMN], dtype=np.float64)).tolist()
    except (TypeError, ValueError) as error:
        raise InputError(f"the column {START_TIME_COLUMN} has to be seconds: {error}") from None


__all__ = ["AudioBaseDataset", "AudioLabeledDataset", "AudioQueryGalleryDataset", "AudioQueryGalleryLabeledDataset"]
