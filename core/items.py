"""What a row of a list is by its path: the path of a file, or a text that stands there itself.

A text is carried where an image has its path, behind `text:`. So lists, tables, indexes and reports keep texts as they
keep files, and none of them needs a column more.
"""

from collections.abc import Collection, Iterable

TEXT = "text:"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
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


def modality_of(path: object) -> str:
    """image, text or audio: by what stands before a text, and how the name of a file ends."""
    path = str(path)
    if is_text(path):
        return "text"
    if path.lower().endswith(AUDIO_SUFFIXES):
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
