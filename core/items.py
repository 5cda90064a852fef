"""What a row of a list is by its path: the path of a file, or a text that stands there itself.

A text is carried where an image has its path, behind `text:`. So lists, tables, indexes and reports keep texts as they
keep files, and none of them needs a column more. In the same way a clip that is a part of its file has behind its path
the second at which it starts, `call.wav#t=12.5`, as media fragments are written (https://www.w3.org/TR/media-frags/).
"""

import re
from collections.abc import Collection, Iterable

TEXT = "text:"
START = "#t="
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
# The path of a file, and the second at which a clip of it starts.
CLIP = re.compile(r"(.+\.(?:wav|flac|ogg))#t=(\d+(?:\.\d+)?)", re.I | re.S)
# What one row is called in sentences, by its modality.
NOUNS = {"image": "image", "text": "text", "audio": "clip"}
MIXED_NOUN = "row"


def is_text(path: object) -> bool:
    """Whether a row's path is a text itself."""
    return str(path).startswith(TEXT)


def text_item(text: str) -> str:
    """A text as it stands in the place of a path."""
    return TEXT + text


def text_of(path: object) -> str:
    """The text of a row that is one."""
    return str(path).removeprefix(TEXT)


def clip_item(path: str, start: float) -> str:
    """A clip that starts so many seconds behind its file's beginning, to the microsecond, in the place of a path."""
    seconds = f"{start:.6f}".rstrip("0").rstrip(".")
    if seconds == "0":
        return path
    return f"{path}{START}{seconds}"


def file_of(path: object) -> str:
    """The file of a row that is no text."""
    return _split_clip(str(path))[0]


def start_of(path: object) -> float | None:
    """The second of its file at which a clip starts, where its row says one."""
    return _split_clip(str(path))[1]


def _split_clip(path: str) -> tuple[str, float | None]:
    # Looked for first: of millions of paths hardly one has it.
    match = CLIP.fullmatch(path) if START in path and not is_text(path) else None
    if match is None:
        return path, None
    return match[1], float(match[2])


def is_clip(path: object) -> bool:
    """Whether a row is a sound."""
    return modality_of(path) == "audio"


def modality_of(path: object) -> str:
    """image, text or audio: by what stands before a text, and how the name of a file ends."""
    path = str(path)
    if is_text(path):
        return "text"
    if file_of(path).lower().endswith(AUDIO_SUFFIXES):
        return "audio"
    return "image"


def noun_of(paths: Iterable[object]) -> str:
    """What one of these rows is called in a sentence."""
    return noun_of_modalities({modality_of(path) for path in paths})


def noun_of_modalities(modalities: Collection[str]) -> str:
    """What a row is called where rows are of these modalities."""
    if len(modalities) == 1:
        [modality] = modalities
        return NOUNS[modality]
    return MIXED_NOUN
