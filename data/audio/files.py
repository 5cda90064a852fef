"""Files of sounds: what they hold, and any of their samples, as float32 of one channel.

soundfile, an extra package, reads all of AUDIO_SUFFIXES; without it the standard library reads plain WAV. What both
read they read to the same numbers: integers over the greatest that their width has.
"""

import functools
import os
import wave
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Protocol, Self

import numpy as np

from core.errors import InputError, first_line
from core.items import file_of, start_of
from core.packages import needed
from core.text import counted

WAV = ".wav"
SAMPLE_WIDTHS = (1, 2, 3, 4)  # bytes of an integer in a WAV that the standard library reads


class Decoder(Protocol):
    """An open file: so many frames a second of so many channels, and some of its frames."""

    rate: int
    channels: int
    frames: int

    def read(self, start: int, count: int) -> np.ndarray:
        """(n, channels) float32 from frame `start` on; n is `count`, or less where the file ends too early."""

    def close(self) -> None: ...


class Sound:
    """An open file of a sound, whose samples are read where they are asked for.

    rate: frames a second, of so many `channels`; frames: how many there are. Raises InputError, naming the file, for
    what cannot be read, is no sound, or has none in it.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise InputError(f"cannot read clip {self.path!r}: {error.strerror}") from None
        try:
            self._decoder = _open_decoder(self.path, self._file)
        except InputError:
            self._file.close()
            raise
        self.rate = self._decoder.rate
        self.channels = self._decoder.channels
        self.frames = self._decoder.frames
        wrong = None
        if _is_cut_off(self._file):
            wrong = "lost its end: the file is shorter than its header says"
        elif self.channels < 1:
            wrong = "0 channels"
        elif self.rate < 1:
            wrong = "0 samples a second"
        elif self.frames < 1:
            wrong = "no samples"
        if wrong is not None:
            self.close()
            raise InputError(f"clip {self.path!r} has {wrong}")

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples `start` to `start + count`, (count,) float32, the mean of all channels; the file has to reach there.

        Raises InputError where it is damaged, and for samples that are NaN or infinite.
        """
        try:
            samples = self._decoder.read(start, count)
        except (OSError, RuntimeError, wave.Error, EOFError) as error:
            raise InputError(f"clip {self.path!r} cannot be read: {first_line(error)}") from None
        if len(samples) < count:
            raise InputError(
                f"clip {self.path!r} is cut off: it ends after {start + len(samples)} of "
                f"{counted(self.frames, 'sample')}"
            )
        mono = _mean_of_channels(samples)
        # A sum over all samples is finite only where each of them is.
        if not np.isfinite(mono.sum(dtype=np.float64)):
            raise InputError(f"clip {self.path!r} has samples that are NaN or infinite")
        return mono

    def close(self) -> None:
        self._decoder.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_sound(path: str | Path, start: float = 0.0, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """(samples (n,) float32 of one channel from second `start` on, `seconds` of them or all; samples a second)."""
    with Sound(path) as sound:
        first = first_frame(sound, start)
        count = sound.frames - first
        if seconds is not None:
            count = min(count, round(seconds * sound.rate))
        return sound.read(first, count), sound.rate


def check_clip(item: object) -> None:
    """Raise InputError unless the file of a row opens, and its clip begins within it."""
    with Sound(file_of(item)) as sound:
        first_frame(sound, start_of(item))


def first_frame(sound: Sound, start: float | None) -> int:
    """The frame at `start` seconds. Raises InputError where the sound is over by then."""
    frame = round((start or 0.0) * sound.rate)
    if frame >= sound.frames:
        raise InputError(
            f"start_time {start:g} is behind the end of clip {sound.path!r}, which is {sound.seconds:.3f} seconds long"
        )
    return frame


@functools.cache
def soundfile() -> ModuleType | None:
    """The package; None where it is not there, or its library is not."""
    try:
        import soundfile
    except (ImportError, OSError):
        return None
    return soundfile


def _mean_of_channels(samples: np.ndarray) -> np.ndarray:
    """(n, channels) to (n,) float32."""
    # Channel by channel: along an axis of one or two numbers NumPy's mean takes twenty times as long.
    mono = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    return mono / np.float32(samples.shape[1])


def _is_cut_off(file: BinaryIO) -> bool:
    """Whether a WAV is shorter than it says itself; those that were written to a pipe say 0 or all ones."""
    file.seek(0)
    start = file.read(8)
    if start[:4] != b"RIFF":
        return False
    length = int.from_bytes(start[4:], "little")
    return length < 0xFFFFFFFF and length + 8 > os.fstat(file.fileno()).st_size


def _open_decoder(path: str, file: BinaryIO) -> Decoder:
    if soundfile() is None and not path.lower().endswith(WAV):
        needed("soundfile", f"clip {path!r}", "audio")
    opened = WaveDecoder if soundfile() is None else SoundfileDecoder
    try:
        return opened(file)
    except (OSError, RuntimeError, wave.Error, EOFError, ValueError) as error:
        reason = first_line(error)
        if opened is WaveDecoder and "format" in reason:
            reason += "; pip install -r requirements/audio.txt reads more of them"
        raise InputError(f"clip {path!r} is no sound that can be read: {reason}") from None


class SoundfileDecoder:
    """By soundfile."""

    def __init__(self, file: BinaryIO):
        try:
            self._sound = soundfile().SoundFile(file)
        except soundfile().LibsndfileError as error:
            raise ValueError(error.error_string) from None
        self.rate = self._sound.samplerate
        self.channels = self._sound.channels
        self.frames = self._sound.frames

    def read(self, start: int, count: int) -> np.ndarray:
        self._sound.seek(start)
        return self._sound.read(count, dtype="float32", always_2d=True)

    def close(self) -> None:
        self._sound.close()


class WaveDecoder:
    """By the standard library: WAV of integers."""

    def __init__(self, file: BinaryIO):
        self._sound = wave.open(file, "rb")
        self.rate = self._sound.getframerate()
        self.channels = self._sound.getnchannels()
        self.frames = self._sound.getnframes()
        self._width = self._sound.getsampwidth()
        if self._width not in SAMPLE_WIDTHS:
            raise wave.Error(f"its samples are of the format of {counted(self._width, 'byte')}")

    def read(self, start: int, count: int) -> np.ndarray:
        self._sound.setpos(start)
        raw = self._sound.readframes(count)
        samples = _integers(raw[: len(raw) - len(raw) % (self._width * self.channels)], self._width)
        return samples.reshape(-1, self.channels)

    def close(self) -> None:
        self._sound.close()


def _integers(raw: bytes, width: int) -> np.ndarray:
    """Little-endian integers of so many bytes as float32 from -1 to below 1; those of one byte have no sign."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        # As the upper three bytes of four.
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        numbers = padded.view("<i4").reshape(-1)
        return (numbers / 2**31).astype(np.float32)
    numbers = np.frombuffer(raw, f"<i{width}")
    return (numbers / 2.0 ** (8 * width - 1)).astype(np.float32)
