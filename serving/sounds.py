"""Sounds as they come in, looked at before anything of them is read, and as they go out, to be played."""

import tempfile

import torch

from core.errors import InputError
from core.items import is_clip
from core.text import counted
from data.audio.files import Sound
from data.audio.modality import Clip
from data.audio.player import encode_clip
from serving.encoding import LiveEncoder
from serving.generation import Generation
from serving.refusal import Refusal

FORMATS = "WAV, FLAC or OGG"
SOUND_TYPES = ("audio/",)
LEAST_RATE, MOST_RATE = 1_000, 384_000  # samples a second that are taken
MOST_CHANNELS = 16
PLAYED_RATE, PLAYED_SECONDS = 16_000, 10.0  # of a clip that is sent


def sound_suffix(content: bytes) -> str | None:
    """What the file of a sound is to end in, by how it begins; None for what is no sound of a known format."""
    if content.startswith(b"RIFF") and content[8:12] == b"WAVE":
        return ".wav"
    if content.startswith(b"fLaC"):
        return ".flac"
    if content.startswith(b"OggS"):
        return ".ogg"
    return None


def open_clip(content: bytes) -> Clip:
    """An uploaded sound, whose samples are not read yet. Raises Refusal (415) for what is none that is taken."""
    suffix = sound_suffix(content)
    if suffix is None:
        raise Refusal(415, f"that is no sound; it has to be a whole {FORMATS} ({counted(len(content), 'byte')} came)")
    # Readers want a file of a name; it is open when the name goes.
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        try:
            sound = Sound(file.name)
        except InputError as error:
            raise _refusal(error, file.name) from None
    if not LEAST_RATE <= sound.rate <= MOST_RATE or sound.channels > MOST_CHANNELS:
        sound.close()
        raise Refusal(
            415,
            f"that sound has {counted(sound.rate, 'sample')} a second of {counted(sound.channels, 'channel')}; "
            f"{LEAST_RATE:,} to {MOST_RATE:,} of up to {MOST_CHANNELS} are taken",
        )
    return Clip(sound, None)


def prepare_clip(encoder: LiveEncoder, content: bytes) -> torch.Tensor:
    """What a network takes of an uploaded sound. Raises Refusal as `open_clip`, and for one that is damaged."""
    clip = open_clip(content)
    try:
        return encoder.prepare("audio", clip)
    except InputError as error:
        raise _refusal(error, clip.sound.path) from None


def _refusal(error: InputError, path: str) -> Refusal:
    # Where it lay for a moment is nobody's business.
    return Refusal(415, str(error).replace(f"clip {path!r}", "that sound"))


def played(generation: Generation, id_: int) -> tuple[bytes, str]:
    """(the beginning of an item's sound, encoded anew, its type). Raises Refusal (404) where there is none."""
    path, _ = generation.path_and_box(id_)
    if not is_clip(path):
        raise Refusal(404, f"item {id_} is no sound")
    try:
        return encode_clip(path, PLAYED_RATE, PLAYED_SECONDS)
    except InputError:
        # As of pictures: the sentence would name the path.
        raise Refusal(404, f"the file of item {id_} cannot be read any more") from None
