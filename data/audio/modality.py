"""The sounds' modality: a clip of a file to its samples at the network's rate, padded to a batch."""

import math
from collections.abc import Collection
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from core.errors import InputError
from core.items import file_of, start_of
from data.audio.augmentations import augmentation_functions, try_augmentations
from data.audio.files import Sound, first_frame
from data.audio.picture import draw_sound_picture
from data.audio.resample import Resampler
from data.modality import Modality
from data.records import Records

# Stands behind a clip's last sample where others of its batch are longer: no sample of a file is one, so that a batch
# is one tensor, of which the network knows what is padding.
PADDING = math.nan


class AudioInput(Protocol):
    """The sounds that a network takes."""

    rate: int
    fills: bool


class Clip(NamedTuple):
    """A clip whose samples are not read yet. start: the second of its file that its row names, or None."""

    sound: Sound
    start: float | None


class AudioModality(Modality):
    """Sounds as a Modality: one channel, the mean of all that a file has, at `rate` samples a second.

    seconds: what is longer is cut: behind so many seconds from the row's start_time, or else from the beginning.
    augment: names of AUGMENTATIONS; with `window` a clip without a start_time is cut anywhere. fills: whether every
    clip of a batch is padded to `seconds`, or only to the longest.
    """

    def __init__(self, rate: int, seconds: float, fills: bool = False, augment: Collection[str] = ()):
        self.rate = rate
        self.most = max(1, round(seconds * rate))
        self.fills = fills
        self.draws_window = "window" in augment
        try_augmentations(augment, rate, self.most)
        self.functions = augmentation_functions(augment)

    def load(self, records: Records, index: int) -> Clip:
        """The open file of a row, in which its clip begins."""
        path = records.paths[index]
        clip = Clip(Sound(file_of(path)), start_of(path))
        try:
            first_frame(clip.sound, clip.start)
        except InputError:
            clip.sound.close()
            raise
        return clip

    def augment(self, sample: Clip, seed: int) -> torch.Tensor:
        """(n,) float32, n up to rate * seconds; of the file only what is needed for them is read, and it is closed."""
        draws = np.random.default_rng(seed)
        with sample.sound as sound:
            resampler = Resampler(sound.rate, self.rate)
            first = round((sample.start or 0.0) * self.rate)
            # The last sample of the source may be before the first of a lower rate.
            length = max(resampler.length(sound.frames), first + 1)
            count = min(length - first, self.most)
            if self.draws_window and sample.start is None:
                first = int(draws.integers(0, length - count + 1))
            samples = read_resampled(sound, resampler, first, count)
        for function in self.functions:
            samples = function(samples, self.rate, draws)
        return torch.from_numpy(np.ascontiguousarray(samples, np.float32))

    def collate(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """(B, N) float32, N of the longest clip, or of `seconds`; PADDING behind the end of shorter ones."""
        batch = pad_sequence(samples, batch_first=True, padding_value=PADDING)
        if self.fills:
            batch = torch.nn.functional.pad(batch, (0, self.most - batch.shape[1]), value=PADDING)
        return batch

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        """The clip's spectrogram, (H, W, 3) uint8 RGB."""
        return draw_sound_picture(records.paths[index])


def read_resampled(sound: Sound, resampler: Resampler, first: int, count: int) -> np.ndarray:
    """Samples first to first + count of a sound at another rate, (count,) float32; outside of the file is silence."""
    start, stop = resampler.span(first, count)
    low = min(max(start, 0), sound.frames)
    high = max(min(stop, sound.frames), low)
    inside = sound.read(low, high - low)
    return resampler.resample(np.pad(inside, (low - start, stop - high)), first, count)
