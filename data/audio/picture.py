"""A sound as a picture, for sheets of neighbours and whatever else shows rows as images."""

import cv2
import numpy as np

from core.items import file_of, start_of
from data.audio.files import read_sound

SIDE = 224  # pixels of the picture
SHOWN_SECONDS = 3.0
WINDOW = 0.032  # seconds of the sound that a column of the picture is made of
HIGHEST = 8000  # Hz at the upper edge
RANGE_DB = 70.0  # from the loudest to what is drawn as silence
SILENT_DB = -30.0  # where nothing is louder, nothing is drawn as loud
# From silence to loud, RGB; what lies between is mixed.
COLOURS = np.array([(18, 16, 38), (72, 29, 111), (181, 54, 92), (246, 136, 48), (252, 240, 180)], np.float64)


def draw_sound_picture(path: object) -> np.ndarray:
    """The first seconds of a clip as a spectrogram, time to the right, pitch upwards, (SIDE, SIDE, 3) uint8 RGB.

    path: of its row. A clip that is shorter than SHOWN_SECONDS fills the picture, too.
    """
    samples, rate = read_sound(file_of(path), start_of(path) or 0.0, SHOWN_SECONDS)
    size = max(8, int(WINDOW * rate))
    padded = np.pad(samples, size // 2)
    starts = np.linspace(0, max(0, len(padded) - size - 1), SIDE).astype(int)
    if len(padded) < size:
        padded = np.pad(padded, (0, size - len(padded)))
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2
    # Rows of the picture from high to low.
    bins = max(2, min(power.shape[1], int(HIGHEST * size / rate) + 1))
    decibel = 10 * np.log10(power[:, :bins].T[::-1] + 1e-10)
    # What is silent throughout stays dark.
    shown = np.clip((decibel - max(decibel.max(), SILENT_DB)) / RANGE_DB + 1, 0, 1)
    return coloured(shown)


def coloured(shown: np.ndarray) -> np.ndarray:
    """A spectrogram from high to low, 0 for silent to 1 for loud, as a picture (SIDE, SIDE, 3) uint8 RGB."""
    shown = cv2.resize(shown, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    steps = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(shown, steps, COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)
