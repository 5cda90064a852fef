"""What lists hold, beyond what their text says: images that cannot be read, sizes, duplicates, labels that meet."""

import hashlib
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from data.image.decode import box_overhang, crop_to_box, decode_whole
from data.vocabulary import of_one_kind

BAR, MOST_BARS = 40, 12  # characters of the longest bar, and bars before counts are put together
SHOWN = 20  # duplicates


def list_notes(train, test):
    """Sentences on what a train and a test list (ImageLists) can do with but should be known of them."""
    notes = list(dict.fromkeys((*train.notes, *test.notes)))  # one csv for both says some things twice
    labels, train_labels = of_one_kind(test.vocabulary.labels, train.vocabulary.labels)
    shared = labels[np.isin(labels, train_labels)]
    if len(shared):
        notes.append(
            f"{len(shared)} of {len(labels)} test labels are train labels, too ({test.names.of_label(shared[0])}, for "
            "one): figures on them do not tell how images of unseen labels are found"
        )
    test_files, train_files = _file_codes(test, train)
    images = np.isin(test_files, train_files).sum()
    if images:
        notes.append(f"{images} of {len(test)} test images are train images, too")
    return notes + query_notes(test)


def _file_codes(*lists):
    """For each list (N,) int64 that tell the files of all of them apart; by path where the files are not known."""
    if any(images.files is None for images in lists):
        keys = [images.paths for images in lists]
        codes = np.unique(np.concatenate(keys), return_inverse=True)[1]
    else:
        codes = np.unique(np.concatenate([images.files for images in lists]), axis=0, return_inverse=True)[1]
    return np.split(codes.reshape(-1), np.cumsum([len(images) for images in lists])[:-1])


def query_notes(test):
    """A sentence on the queries of a test list that nothing in its gallery is right for; none where there are none."""
    queries = np.flatnonzero(test.is_query & ~has_positive(test))
    if not len(queries):
        return []
    asked = int(test.is_query.sum())
    return [
        f"{place_of(test, queries[0])}: the label {test.names.of_label(test.labels[queries[0]])} of this query, and of "
        f"{len(queries) - 1} of {asked - 1} others, has no other image in the gallery: they count as misses"
    ]


def lone_notes(train, what):
    """A sentence on the labels of a train list that have one image only; what: what becomes of them."""
    lone = np.flatnonzero(train.vocabulary.counts == 1)
    if not len(lone):
        return []
    first = np.flatnonzero(train.vocabulary.codes == lone[0])[0]
    return [
        f"{len(lone)} of {len(train.vocabulary)} train labels have a single image ({place_of(train, first)}, for one): "
        f"{what}"
    ]


def has_positive(images):
    """Which images have another one of their label in the gallery, (N,) bool."""
    codes = images.vocabulary.codes
    return np.bincount(codes[images.is_gallery], minlength=len(images.vocabulary))[codes] > images.is_gallery


def place_of(images, index):
    """Where image `index` stands in its list: file:line."""
    return f"{images.source}:{images.lines[index]}" if images.lines is not None else images.source


def check_images(lists, read):
    """Print what is in `lists`, {name: ImageList}, and read all images; returns sentences on those that cannot be.

    read: function from path to bytes (N,) uint8. Two images are duplicates when their files are equal byte for byte.
    """
    faults, copies = [], defaultdict(list)  # digest -> [(name of the list, label, path), ...]
    for name, images in lists.items():
        print(f"{name}: {len(images)} images of {len(images.vocabulary)} labels in {images.source}")
        print("\n".join(_histogram(images.vocabulary.counts)))
        sizes, overhanging = [], []
        with ThreadPoolExecutor() as pool:
            looks = pool.map(lambda index: _look(images, index, read), range(len(images)))
            for index, look in enumerate(tqdm(looks, total=len(images), unit="image", disable=None)):
                if look.fault:
                    faults.append(f"{place_of(images, index)}: {look.fault}")
                    continue
                sizes.append(look.size)
                overhanging += [index] * (look.overhang > 1)
                label = images.names.of_label(images.labels[index])
                copies[look.digest].append((name, label, str(images.paths[index])))
        if sizes:
            low, middle, high = (np.percentile(sizes, share, axis=0, method="lower") for share in (0, 50, 100))
            print(f"width:  {low[1]} to {high[1]} pixels, median {middle[1]}")
            print(f"height: {low[0]} to {high[0]} pixels, median {middle[0]}")
        print(f"unreadable: {len(images) - len(sizes)}")
        if overhanging:
            print(
                f"boxes that reach out of their image: {len(overhanging)} ({place_of(images, overhanging[0])}, for one)"
            )
        for alike in similar_labels(images.vocabulary.labels):
            print(f"labels that differ by case, blanks, zeros or signs only: {', '.join(map(repr, alike))}")
    if lists:
        _print_copies([group for group in copies.values() if len(group) > 1])
    return faults


class Look(NamedTuple):
    """What one image is: (height, width) of what its box cuts out, SHA-256 of its file, pixels by which the box reaches
    out of the image; `fault` says why it cannot be read, else None."""

    size: tuple = (0, 0)
    digest: bytes = b""
    overhang: float = 0.0
    fault: str | None = None


def _look(images, index, read):
    path, box = images.paths[index], images.box_of(index)
    try:
        encoded = read(path)
        whole = decode_whole(encoded, path)
        size = crop_to_box(whole, path, box).shape[:2]
    except InputError as error:
        return Look(fault=str(error))
    return Look(size, hashlib.sha256(encoded).digest(), box_overhang(box, *whole.shape[:2]))


def similar_labels(labels, most=SHOWN):
    """Groups of labels (C,) that people may take for one: lists of texts, `most` at the most."""
    groups = defaultdict(list)
    for label in labels.tolist():
        bare = re.sub(r"[\W_]", "", str(label)).casefold()
        groups[bare.lstrip("0") or bare].append(str(label))
    return [group for group in groups.values() if len(group) > 1 and labels.dtype.kind not in "iu"][:most]


def _histogram(counts):
    """Lines that show how many labels have so many images; many different counts are put together by powers of two."""
    bars = Counter(counts.tolist())
    names = {count: str(count) for count in bars}
    if len(bars) > MOST_BARS:
        bars = Counter((np.ceil(np.log2(counts))).astype(int).tolist())  # 1, 2, 3 to 4, 5 to 8, ...
        names = {power: f"{2 ** (power - 1) + 1} to {2**power}" if power > 1 else str(2**power) for power in bars}
    yield f"{'images':>12} {'labels':>8}"
    for key in sorted(bars):
        yield f"{names[key]:>12} {bars[key]:>8} {'#' * round(BAR * bars[key] / max(bars.values()))}".rstrip()


def _print_copies(groups):
    """The groups of equal files, [(name of the list, label, path), ...] each, by what they cross."""
    across = {
        "across labels": [group for group in groups if len({label for _, label, _ in group}) > 1],
        "across splits": [group for group in groups if len({name for name, _, _ in group}) > 1],
        "within a label of a split": [group for group in groups if len({place[:2] for place in group}) < len(group)],
    }
    for kind, crossing in across.items():
        print(f"equal files {kind}: {len(crossing)}")
        for group in crossing[:SHOWN]:
            print("    " + " = ".join(f"{path} ({name}, label {label})" for name, label, path in group))
        if len(crossing) > SHOWN:
            print(f"    and {len(crossing) - SHOWN} more")
