"""What training does to a clip, by name: a new augmentation is a function here and a row of AUGMENTATIONS.

Each function takes samples (n,) float32, their number a second and the generator that it draws from, and returns new
samples of the same shape. They work on the wave, and not on a spectrogram, so that every network can be trained with
all of them, whatever it makes of waves.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from core.errors import InputError, raised
from core.mel import htk_mels

GAIN_DB = 6.0
NOISE_DB = (10.0, 30.0)
TIME_MASKS, TIME_SHARE = 2, 0.1
BAND_MASKS, BAND_SHARE = 2, 0.12

Generator = np.random.Generator


def random_gain(samples: np.ndarray, rate: int, draws: Generator) -> np.ndarray:
    """Louder or softer by up to 6 dB."""
    return samples * np.float32(10 ** (draws.uniform(-GAIN_DB, GAIN_DB) / 20))


def random_noise(samples: np.ndarray, rate: int, draws: Generator) -> np.ndarray:
    """White noise, 10 to 30 dB softer than the clip, half of the time."""
    if draws.random() < 0.5:
        return samples
    softer = 10 ** (-draws.uniform(*NOISE_DB) / 20)
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return samples + np.float32(softer * loudness) * draws.standard_normal(len(samples), np.float32)


def random_silence(samples: np.ndarray, rate: int, draws: Generator) -> np.ndarray:
    """Silence in two stretches, each of up to a tenth of the clip: SpecAugment's masks of time (arXiv 1904.08779)."""
    masked = samples.copy()
    for _ in range(TIME_MASKS):
        width = int(draws.uniform(0, TIME_SHARE) * len(samples))
        start = int(draws.integers(0, len(samples) - width + 1))
        masked[start : start + width] = 0
    return masked


def random_bands(samples: np.ndarray, rate: int, draws: Generator) -> np.ndarray:
    """Two bands taken out, each of up to 12 % of the mel scale: SpecAugment's masks of frequency (arXiv 1904.08779)."""
    spectrum = np.fft.rfft(samples)
    mels = htk_mels(np.fft.rfftfreq(len(samples), 1 / rate), np.log10)
    for _ in range(BAND_MASKS):
        width = draws.uniform(0, BAND_SHARE) * mels[-1]
        low = draws.uniform(0, mels[-1] - width)
        spectrum[(mels >= low) & (mels < low + width)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


class Augmentation(NamedTuple):
    """A row of AUGMENTATIONS: a line of help, and the function; None where the modality itself does it."""

    help: str
    function: Callable[[np.ndarray, int, Generator], np.ndarray] | None


# In the order in which they are applied, whatever the order in which they are named.
AUGMENTATIONS = {
    "window": Augmentation("any part of a clip that is longer than --clip_seconds, and not its beginning", None),
    "gain": Augmentation("louder or softer by up to 6 dB", random_gain),
    "noise": Augmentation("white noise, 10 to 30 dB softer than the clip, half of the time", random_noise),
    "silence": Augmentation("silence in two stretches of up to a tenth of the clip (arXiv 1904.08779)", random_silence),
    "bands": Augmentation("two bands of up to 12 % of the mel scale taken out (arXiv 1904.08779)", random_bands),
}


# So often an augmentation is tried: many leave a clip as it is half of the time.
TRIES = 8


def try_augmentations(names: Collection[str], rate: int, count: int) -> None:
    """Raise InputError, naming it, for an augmentation that makes no clip of a clip, before any is loaded.

    NaN is refused since it stands for what is behind a clip's end.
    """
    draws = np.random.default_rng(0)
    samples = draws.uniform(-0.1, 0.1, count).astype(np.float32)
    for name in names:
        function = AUGMENTATIONS[name].function
        for _ in range(TRIES if function is not None else 0):
            try:
                changed = function(samples.copy(), rate, draws)
            except Exception as error:
                raise InputError(f"the augmentation {name!r} raised {raised(error)}") from error
            given = type(changed).__name__
            if isinstance(changed, np.ndarray):
                given = f"{changed.dtype} {changed.shape}"
                if changed.dtype.kind == "f" and changed.shape == samples.shape:
                    if np.isfinite(changed).all():
                        continue
                    given += " with NaN or infinite samples"
            raise InputError(
                f"the augmentation {name!r} gave {given} of a clip; the same shape is asked, float32 {samples.shape}"
            )


def augmentation_functions(
    names: Collection[str],
) -> list[Callable[[np.ndarray, int, Generator], np.ndarray]]:
    """The functions of the named augmentations in the order of AUGMENTATIONS, but for the window, which has none."""
    rows = [AUGMENTATIONS[name] for name in AUGMENTATIONS if name in names]
    return [row.function for row in rows if row.function is not None]
