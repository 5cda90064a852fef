"""The mock sounds: tones with overtones, of one colour in many pitches, played into a folder with their tables."""

import wave
from pathlib import Path

import numpy as np

from core.files import replacing

RATE, SECONDS = 16_000, 1.5
SEED = 6  # of the random numbers
SOUNDS = 4  # of each colour
# How loud each overtone is, the tone itself first; the first half of the colours is trained on.
COLOURS = {
    "flute": (1, 0.1),
    "organ": (1, 0.8, 0, 0.6),
    "reed": (1, 0, 0.7, 0, 0.5),
    "bell": (0.4, 0, 0, 1, 0, 0.8),
    "string": (1, 0.5, 0.33, 0.25, 0.2),
    "horn": (0.3, 1, 0.5),
    "glass": (1, 0, 0, 0, 0, 0, 1),
    "buzz": (1, 1, 1, 1, 1, 1),
}
COLUMNS = ("label", "path", "split", "is_query", "is_gallery")
TABLES = {"df.csv": COLUMNS, "df_with_start_times.csv": (*COLUMNS, "start_time")}


def play_tones(folder: Path) -> Path:
    """Write sounds and their tables where they are not there yet; returns the folder."""
    if all((folder / name).is_file() for name in TABLES):
        return folder
    (folder / "audios").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    rows = []
    for label, (name, overtones) in enumerate(COLOURS.items()):
        is_train = label < len(COLOURS) // 2
        for number in range(1, SOUNDS + 1):
            path = f"audios/{name}_{number}.wav"
            with replacing(folder / path) as stream:
                _write(stream, _tone(rng.uniform(150, 450), overtones))
            roles = ("train", "", "") if is_train else ("validation", True, True)
            start = 0.5 if number == SOUNDS else 0.0
            rows.append((label, path, *roles, start))
    # Tables last: where they are, all is.
    for name, columns in TABLES.items():
        lines = [columns, *(row[: len(columns)] for row in rows)]
        with replacing(folder / name) as stream:
            stream.write("".join(f"{','.join(map(str, line))}\n" for line in lines).encode())
    return folder


def _tone(hertz: float, overtones: tuple[float, ...]) -> np.ndarray:
    """A tone that dies away, (samples,) float64 within 0.5 of 0."""
    seconds = np.arange(int(SECONDS * RATE)) / RATE
    waves = [loud * np.sin(2 * np.pi * hertz * order * seconds) for order, loud in enumerate(overtones, 1)]
    return np.sum(waves, axis=0) * np.exp(-seconds) / sum(overtones) / 2


def _write(stream: object, samples: np.ndarray) -> None:
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


__all__ = ["play_tones"]
