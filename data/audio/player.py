"""Clips as a page plays them: short, of one channel, and encoded within a number of bytes."""

import base64
import io
import wave
from collections.abc import Sequence

import numpy as np

from core.items import file_of, start_of
from data.audio.files import Sound, first_frame, soundfile
from data.audio.modality import read_resampled
from data.audio.resample import Resampler

MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# Samples a second and seconds, tried in turn until the bytes suffice.
SIZES = ((16_000, 3.0), (16_000, 1.5), (8_000, 1.0), (8_000, 0.5))


def encode_clips(items: Sequence[object], most: int) -> list[str]:
    """The beginnings of clips as data URIs, in all about `most` bytes or fewer; of many the shortest that is tried.

    MP3 where soundfile is there, which every browser plays, else WAV of 8 bits. Raises InputError as Sound.
    """
    for rate, seconds in SIZES:
        encoded = []
        size = 0
        for item in items:
            content, kind = encode_clip(item, rate, seconds)
            encoded.append(f"data:{kind};base64,{base64.b64encode(content).decode()}")
            size += len(encoded[-1])
            if size > most and (rate, seconds) != SIZES[-1]:
                break
        else:
            break
    return encoded


def encode_clip(item: object, rate: int, seconds: float) -> tuple[bytes, str]:
    """(the first seconds of a clip at a rate, its type): MP3, or WAV of 8 bits. Raises InputError as Sound."""
    return encode_samples(_beginning(item, rate, seconds), rate)


def _beginning(item: object, rate: int, seconds: float) -> np.ndarray:
    """The first seconds of a clip, (n,) float32."""
    with Sound(file_of(item)) as sound:
        first_frame(sound, start_of(item))
        resampler = Resampler(sound.rate, rate)
        first = round((start_of(item) or 0.0) * rate)
        count = min(max(resampler.length(sound.frames) - first, 1), round(seconds * rate))
        return read_resampled(sound, resampler, first, count)


def encode_samples(samples: np.ndarray, rate: int) -> tuple[bytes, str]:
    """(samples (n,) of -1 to 1, their type): MP3 where it knows the rate, else WAV of 8 bits."""
    samples = np.clip(samples, -1, 1)
    stream = io.BytesIO()
    if rate in MP3_RATES and _writes_mp3():
        soundfile().write(stream, samples, rate, format="MP3")
        kind = "mpeg"
    else:
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(rate)
            file.writeframes((samples * 127 + 128).round().astype(np.uint8).tobytes())
        kind = "wav"
    return stream.getvalue(), f"audio/{kind}"


def _writes_mp3() -> bool:
    return soundfile() is not None and "MP3" in soundfile().available_formats()
