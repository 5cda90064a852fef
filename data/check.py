"""All images or sounds of lists read and compared: sizes, those that cannot be read, copies, labels that look alike."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.items import content_of, file_of, is_clip, is_text, start_of
from core.text import counted
from data.audio.files import read_sound
from data.image.decode import box_overhang, crop_to_box, decode_whole
from data.records import Records

LONGEST_BAR = 40  # characters
MOST_BARS = 12  # before counts are put together
SHOWN = 20  # duplicates


class Look(NamedTuple):
    """What one image is, or one sound.

    size: (height, width) of what its box cuts out. digest: SHA-256 of its file. overhang: pixels by which the box
    reaches out of the image. problem: why it cannot be read, else None. seconds: how long a sound is from its start on.
    """

    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    overhang: float = 0.0
    problem: str | None = None
    seconds: float = 0.0


class Copy(NamedTuple):
    """One of several images whose files are equal byte for byte."""

    split: str
    label: str
    path: str


def check_images(lists: dict[str, Records], read: Callable[[str], np.ndarray]) -> list[str]:
    """Print what is in `lists`, by split, and read all images; returns sentences on those that cannot be.

    read: function from path to bytes (N,) uint8. Two images are duplicates when their files are equal byte for byte.
    """
    problems = []
    copies = defaultdict(list)  # by digest
    for split, records in lists.items():
        images, labels = counted(len(records), records.noun), counted(len(records.vocabulary), "label")
        print(f"{split}: {images} of {labels} in {records.source}")
        print("\n".join(_histogram(records.vocabulary.counts, f"{records.noun}s")))
        sizes = []
        lengths = []
        readable = 0
        overhanging = []
        for index, look in enumerate(_look_at_all(records, read)):
            if look.problem is not None:
                problems.append(f"{records.location(index)}: {look.problem}")
                continue
            readable += 1
            if any(look.size):
                sizes.append(look.size)
            if look.seconds:
                lengths.append(look.seconds)
            # A box that ends within a pixel of the border was rounded.
            if look.overhang > 1:
                overhanging.append(index)
            copies[look.digest].append(Copy(split, records.label_text(index), str(records.paths[index])))
        _print_sizes(sizes)
        _print_lengths(lengths)
        print(f"unreadable: {len(records) - readable}")
        if overhanging:
            example = records.location(overhanging[0])
            print(f"boxes that reach out of their image: {len(overhanging)} ({example}, for one)")
        for alike in similar_labels(records.vocabulary.labels):
            print(f"labels that differ by case, blanks, zeros or signs only: {', '.join(map(repr, alike))}")
    if lists:
        _print_copies([group for group in copies.values() if len(group) > 1])
    return problems


def _look_at_all(records: Records, read: Callable[[str], np.ndarray]) -> Iterator[Look]:
    """A Look at each image of a list, in order, behind a progress bar."""
    with ThreadPoolExecutor() as pool:
        looks = pool.map(lambda index: _look(records, index, read), range(len(records)))
        yield from tqdm(looks, total=len(records), unit=records.noun, disable=None)


def _look(records: Records, index: int, read: Callable[[str], np.ndarray]) -> Look:
    """Read and decode one image as a training would, though whole."""
    path, box = records.paths[index], records.box_of(index)
    if is_text(path):
        return Look(digest=hashlib.sha256(path.encode(errors="surrogatepass")).digest())
    try:
        encoded = read(content_of(path))
        if is_clip(path):
            return _look_at_clip(path, encoded)
        whole = decode_whole(encoded, path)
        size = crop_to_box(whole, path, box).shape[:2]
    except InputError as error:
        return Look(problem=str(error))
    return Look(size, hashlib.sha256(encoded).digest(), box_overhang(box, *whole.shape[:2]))


def _look_at_clip(path: str, encoded: np.ndarray) -> Look:
    """Read one sound from its start to its end."""
    samples, rate = read_sound(file_of(path), start_of(path) or 0.0)
    # Clips of one file are no copies of each other.
    digest = hashlib.sha256(encoded)
    digest.update(path[len(file_of(path)) :].encode())
    return Look(seconds=len(samples) / rate, digest=digest.digest())


def _print_lengths(lengths: list[float]) -> None:
    """How long a list's sounds are; nothing where there are none."""
    if not lengths:
        return
    least, median, most = np.percentile(lengths, (0, 50, 100), method="lower")
    print(f"length: {least:.2f} to {most:.2f} seconds, median {median:.2f}")


def _print_sizes(sizes: list[tuple[int, int]]) -> None:
    """The range of heights and widths of a list's images; nothing where none can be read."""
    if not sizes:
        return
    least, median, most = np.percentile(sizes, (0, 50, 100), axis=0, method="lower")
    print(f"width:  {least[1]} to {most[1]} pixels, median {median[1]}")
    print(f"height: {least[0]} to {most[0]} pixels, median {median[0]}")


def similar_labels(labels: np.ndarray, most: int = SHOWN) -> list[list[str]]:
    """Groups of labels (C,) that people may take for one: lists of texts, `most` at the most."""
    if labels.dtype.kind in "iu":
        return []
    groups = defaultdict(list)
    for label in labels.tolist():
        # Letters and digits alone, and numbers without the zeros in front.
        bare = re.sub(r"[\W_]", "", label).casefold()
        groups[bare.lstrip("0") or bare].append(label)
    return [group for group in groups.values() if len(group) > 1][:most]


def _histogram(counts: np.ndarray, noun: str) -> Iterator[str]:
    """Lines that show how many labels have so many images, counts (C,); many different ones are put together.

    noun: what is counted in place of images.
    """
    bars = Counter(counts.tolist())
    names = {count: str(count) for count in bars}
    if len(bars) > MOST_BARS:
        # By powers of two: 1, 2, 3 to 4, 5 to 8, ...
        bars = Counter(np.ceil(np.log2(counts)).astype(int).tolist())
        names = {power: f"{2 ** (power - 1) + 1} to {2**power}" for power in bars}
        names.update({0: "1", 1: "2"})
    longest = max(bars.values())
    yield f"{noun:>12} {'labels':>8}"
    for key in sorted(bars):
        bar = "#" * round(LONGEST_BAR * bars[key] / longest)
        yield f"{names[key]:>12} {bars[key]:>8} {bar}".rstrip()


def _print_copies(groups: list[list[Copy]]) -> None:
    """The groups of equal files, by what they cross."""
    # A group may be of several kinds, and is shown under each.
    kinds = {"across labels": [], "across splits": [], "within a label of a split": []}
    for group in groups:
        if len({copy.label for copy in group}) > 1:
            kinds["across labels"].append(group)
        if len({copy.split for copy in group}) > 1:
            kinds["across splits"].append(group)
        if len({(copy.split, copy.label) for copy in group}) < len(group):
            kinds["within a label of a split"].append(group)
    for kind, members in kinds.items():
        print(f"equal files {kind}: {len(members)}")
        for group in members[:SHOWN]:
            print("    " + " = ".join(f"{copy.path} ({copy.split}, label {copy.label})" for copy in group))
        if len(members) > SHOWN:
            print(f"    and {len(members) - SHOWN} more")
