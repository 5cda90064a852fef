"""Folders of images or of sounds: all of them below one, whatever their names, and a folder per label as a list."""

import os
from collections import Counter
from pathlib import Path

from core.errors import InputError
from core.items import is_clip
from core.text import counted, plural
from data.formats.problems import Problems
from data.image.header import FORMATS, is_image
from data.vocabulary import as_labels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FIRST_BYTES = 16  # that tell the format
# Photographs that nothing here reads, by their suffix: what they are called. Those of cameras begin as a TIFF does.
CAMERA_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
UNREAD_PHOTOS = {
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".hif": "HEIC",
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
    **{suffix: "camera raw" for suffix in CAMERA_RAW},
}

HIDDEN = ("hidden file or folder", "hidden files or folders")
SEARCHED = ("linked folder that was searched already", "linked folders that were searched already")
NOWHERE = ("link that leads nowhere", "links that lead nowhere")
SPECIAL = ("special file", "special files")
CLOSED = ("file that cannot be opened", "files that cannot be opened")
OTHERS = (f"file that is no {FORMATS}", f"files that are no {FORMATS}")
AMONG_SOUNDS = ("image among sounds", "images among sounds")


class LeftOut:
    """What a search of a folder passes over, by reason, each with its number and one example."""

    def __init__(self):
        self.counts = Counter()
        self.examples: dict[tuple[str, str], str] = {}

    def add(self, reason: tuple[str, str], path: str) -> None:
        """Pass `path` over; reason: what it is, and what several of them are."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, path)

    def sentence(self, folder: str | Path) -> str | None:
        """All of it in one sentence; None where nothing was left out."""
        if not self.counts:
            return None
        clauses = []
        for reason, count in self.counts.items():
            example = os.path.relpath(self.examples[reason], folder)
            if count > 1:
                example += ", for one"
            clauses.append(f"{count} {plural(count, *reason)} ({example})")
        if any(reason in self.counts for reason in map(_photos, UNREAD_PHOTOS.values())):
            clauses[-1] += "; photographs of these kinds are taken once they are saved as JPEG"
        return f"left out of {str(folder)!r}: {'; '.join(clauses)}"


def find_files(folder: str | Path) -> tuple[list[str], str | None]:
    """(paths of all images below a folder, or of all sounds where these are more, in order; a sentence on what was left
    out, or None).

    A file is an image by its first bytes, or by its suffix, so that a damaged one is told of and not lost; a sound is
    one by its suffix. Links are followed, each folder is searched once. Files and folders whose names begin with a dot
    are left out.
    """
    images = []
    sounds = []
    left_out = LeftOut()
    searched = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        # By its numbers on the disk: links may lead to a folder on several ways, or in a circle.
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in searched:
            left_out.add(SEARCHED, parent)
            subfolders.clear()
            continue
        searched.add((status.st_dev, status.st_ino))

        # What is taken out of this list os.walk does not enter.
        for name in [name for name in subfolders if name.startswith(".")]:
            left_out.add(HIDDEN, os.path.join(parent, name))
            subfolders.remove(name)
        subfolders.sort()
        for name in files:
            path = os.path.join(parent, name)
            reason = _reason_to_leave_out(path, name)
            if reason is not None:
                left_out.add(reason, path)
            elif is_clip(name):
                sounds.append(path)
            else:
                images.append(path)

    # A folder is of one kind: what lies among many of the other, a cover or a memo, belongs to them.
    if len(sounds) > len(images):
        taken, others, reason = sounds, images, AMONG_SOUNDS
    else:
        taken, others, reason = images, sounds, OTHERS
    for path in sorted(others):
        left_out.add(reason, path)
    return sorted(taken), left_out.sentence(folder)


def _photos(kind: str) -> tuple[str, str]:
    return f"{kind} file", f"{kind} files"


def _reason_to_leave_out(path: str, name: str) -> tuple[str, str] | None:
    """Why a file is not taken; None where it is."""
    if name.startswith("."):
        return HIDDEN
    if not os.path.exists(path):
        return NOWHERE
    if not os.path.isfile(path):
        return SPECIAL
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or is_clip(name):
        return None
    if suffix in CAMERA_RAW:
        return _photos(UNREAD_PHOTOS[suffix])
    try:
        with open(path, "rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError:
        return CLOSED
    if is_image(start):
        return None
    return _photos(UNREAD_PHOTOS[suffix]) if suffix in UNREAD_PHOTOS else OTHERS


def label_folders(folder: str | Path, level: int = 1) -> tuple[dict[str, list[str]], str | None]:
    """(columns of a list {paths, labels, categories}, a sentence on what was left out, or None) of a folder per label.

    An image's label is the path of the `level` folders below `folder` that it lies in, its category, from level 2 on,
    that of all but the last of them. Raises InputError where there is no such folder, or no image lies so deep.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}")
    paths, note = find_files(folder)
    columns = {"paths": [], "labels": [], "categories": []}
    shallow = []
    for path in paths:
        folders = Path(path).relative_to(folder).parts[:-1]
        if len(folders) < level:
            shallow.append(path)
            continue
        columns["paths"].append(path)
        columns["labels"].append("/".join(folders[:level]))
        columns["categories"].append("/".join(folders[: level - 1]))
    if not columns["paths"]:
        raise InputError(
            f"no image lies in a folder of its label below {str(folder)!r}: {str(folder / 'LABEL' / 'image.jpg')!r} "
            f"is what is looked for ({counted(len(paths), 'image')} there "
            f"{plural(len(paths), 'lies', 'lie')} elsewhere)"
        )
    if level == 1:
        del columns["categories"]
    notes = [] if note is None else [note]
    if shallow:
        example = os.path.relpath(shallow[0], folder)
        if len(shallow) == 1:
            notes.append(f"1 image ({example}) lies in no folder of a label and is left out")
        else:
            notes.append(f"{len(shallow)} images ({example}, for one) lie in no folder of a label and are left out")
    if empty := sorted(_folders_at(folder, level) - set(columns["labels"])):
        example = empty[0] if len(empty) == 1 else f"{empty[0]}, for one"
        hold, are = plural(len(empty), "holds", "hold"), plural(len(empty), "is", "are")
        notes.append(f"{counted(len(empty), 'folder')} of a label ({example}) {hold} no image and {are} left out")
    return columns, "; ".join(notes) or None


def _folders_at(folder: Path, level: int) -> set[str]:
    """Paths from `folder` of the folders so many levels below it, links and hidden ones left out."""
    found = {""}
    for _ in range(level):
        below = set()
        for parent in found:
            with os.scandir(folder / parent) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            below |= {f"{parent}/{name}".lstrip("/") for name in names if not name.startswith(".")}
        found = below
    return found


def parse_folder(folder: Path, problems: Problems) -> dict[str, list] | None:
    """The columns `paths` and `labels` of a folder per label; None where it is none, as `problems` says."""
    try:
        columns, note = label_folders(folder)
    except InputError as error:
        problems.add(0, str(error))
        return None
    if note is not None:
        # What is left out is said of the folder already.
        problems.note(note, names_source=note.startswith("left out of"))
    return {**columns, "labels": as_labels(columns["labels"])}
