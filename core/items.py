"""What a row of a list is by its path: the path of a file, or a text that stands there itself.

A text is carried where an image has its path, behind `text:`. So lists, tables, indexes and reports keep texts as they
keep files, and none of them needs a column more. In the same way a clip that is a part of its file has behind its path
the second at which it starts, `call.wav#t=12.5`, as media fragments are written (https://www.w3.org/TR/media-frags/).
An image that lies within another file says where: `photos.tar/cat.jpg#bytes=1536+20480`, from which byte on and how
many they are, or `photos.parquet/cat.jpg#row=17`. What it is called there stands between, and is for people alone.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

TEXT = "text:"
START = "#t="
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
# The path of a file, and the second at which a clip of it starts.
CLIP = re.compile(r"(.+\.(?:wav|flac|ogg))#t=(\d+(?:\.\d+)?)", re.I | re.S)
# An image within another file: that file, what it is called there, its first byte and how many they are, or its row.
TAR_MEMBER = re.compile(r"(.+\.tar)/(.+)#bytes=(\d+)\+(\d+)", re.I | re.S)
PARQUET_MEMBER = re.compile(r"(.+\.parquet)/(.+)#row=(\d+)", re.I | re.S)
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


class Member(NamedTuple):
    """An image within another file.

    start: of a tar its first byte, of a parquet file its row. size: of a tar how many bytes; None of a parquet file.
    """

    archive: str
    name: str
    start: int
    size: int | None


def member_item(archive: str, name: str, start: int, size: int | None) -> str:
    """A Member in the place of a path."""
    # A name may lead anywhere, and must not end an archive's name anew.
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    clean = "/".join(parts).replace(".tar/", ".tar_/").replace(".parquet/", ".parquet_/") or "unnamed"
    if size is None:
        return f"{archive}/{clean}#row={start}"
    return f"{archive}/{clean}#bytes={start}+{size}"


def member_of(path: object) -> Member | None:
    """The image within another file that a row is; None where it is none."""
    path = str(path)
    if is_text(path):
        return None
    # The mark is looked for first: hardly a path of millions has it.
    if "#bytes=" in path and (match := TAR_MEMBER.fullmatch(path)):
        return Member(match[1], match[2], int(match[3]), int(match[4]))
    if "#row=" in path and (match := PARQUET_MEMBER.fullmatch(path)):
        return Member(match[1], match[2], int(match[3]), None)
    return None


def file_of(path: object) -> str:
    """The file of a row that is no text."""
    member = member_of(path)
    if member is not None:
        return member.archive
    return _split_clip(str(path))[0]


def content_of(path: object) -> str:
    """What tells a row's content, as `read_bytes` takes it: its file, or the whole path of an image within another."""
    if member_of(path) is not None:
        return str(path)
    return file_of(path)


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
