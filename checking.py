"""What lists hold, beyond what their text says: images that cannot be read, sizes, duplicates, labels that meet."""

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from decoding import decode_whole
from errors import InputError

BAR, MOST_BARS = 40, 12  # characters of the longest bar, and bars before counts are put together
SHOWN = 20  # duplicates


def list_notes(train, test):
    """Sentences on what a train and a test list (ImageLists) can do with but should be known of them."""
    notes = []
    labels = np.unique(test.labels)
    shared = labels[np.isin(labels, train.labels)]
    if len(shared):
        notes.append(
            f"{len(shared)} of {len(labels)} test labels are train labels, too ({shared[0]}, for one): figures on them "
            "do not tell how images of unseen labels are found"
        )
    images = len(set(train.paths.tolist()) & set(test.paths.tolist()))
    if images:
        notes.append(f"{images} of {len(test)} test images are train images, too")
    return notes + query_notes(test)


def query_notes(test):
    """A sentence on the queries of a test list that nothing in its gallery is right for; none where there are none."""
    queries = np.flatnonzero(test.is_query & ~has_positive(test))
    if not len(queries):
        return []
    asked = int(test.is_query.sum())
    return [
        f"{place_of(test, queries[0])}: the label {test.labels[queries[0]]} of this query, and of {len(queries) - 1} "
        f"of {asked - 1} others, has no other image in the gallery: they count as misses"
    ]


def lone_notes(train, what):
    """A sentence on the labels of a train list that have one image only; what: what becomes of them."""
    labels, first, counts = np.unique(train.labels, return_index=True, return_counts=True)
    lone = np.flatnonzero(counts == 1)
    if not len(lone):
        return []
    return [
        f"{len(lone)} of {len(labels)} train labels have a single image ({place_of(train, first[lone[0]])}, for one): "
        f"{what}"
    ]


def has_positive(images):
    """Which images have another one of their label in the gallery, (N,) bool."""
    labels, codes = np.unique(images.labels, return_inverse=True)
    return np.bincount(codes[images.is_gallery], minlength=len(labels))[codes] > images.is_gallery


def place_of(images, index):
    """Where image `index` stands in its list: file:line."""
    return f"{images.source}:{images.lines[index]}" if images.lines is not None else images.source


def check_images(lists, read):
    """Print what is in `lists`, {name: ImageList}, and read all images; returns sentences on those that cannot be.

    read: function from path to bytes (N,) uint8. Two images are duplicates when their files are equal byte for byte.
    """
    faults, copies = [], defaultdict(list)  # digest -> [(name of the list, label, path), ...]
    for name, images in lists.items():
        print(f"{name}: {len(images)} images of {len(np.unique(images.labels))} labels in {images.source}")
        print("\n".join(_histogram(np.unique(images.labels, return_counts=True)[1])))
        sizes = []
        with ThreadPoolExecutor() as pool:
            looks = pool.map(lambda index: _look(images, index, read), range(len(images)))
            for index, (size, digest, fault) in enumerate(tqdm(looks, total=len(images), unit="image", disable=None)):
                if fault:
                    faults.append(f"{place_of(images, index)}: {fault}")
                else:
                    sizes.append(size)
                    copies[digest].append((name, int(images.labels[index]), str(images.paths[index])))
        if sizes:
            low, middle, high = (np.percentile(sizes, share, axis=0, method="lower") for share in (0, 50, 100))
            print(f"width:  {low[1]} to {high[1]} pixels, median {middle[1]}")
            print(f"height: {low[0]} to {high[0]} pixels, median {middle[0]}")
        print(f"unreadable: {len(images) - len(sizes)}")
    _print_copies([group for group in copies.values() if len(group) > 1])
    return faults


def _look(images, index, read):
    """Of one image: its (height, width), the digest of its file, and a sentence if it cannot be read, else None."""
    path = images.paths[index]
    try:
        encoded = read(path)
        image = decode_whole(encoded, path, images.box_of(index))
    except InputError as error:
        return None, None, str(error)
    return image.shape[:2], hashlib.sha256(encoded).digest(), None


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
    """The groups of equal files, [(name of the list, label, path), ...] each, that cross a label or a split."""
    across = {
        "labels": [group for group in groups if len({label for _, label, _ in group}) > 1],
        "splits": [group for group in groups if len({name for name, _, _ in group}) > 1],
    }
    for kind, crossing in across.items():
        print(f"equal files across {kind}: {len(crossing)}")
        for group in crossing[:SHOWN]:
            print("    " + " = ".join(f"{path} ({name}, label {label})" for name, label, path in group))
        if len(crossing) > SHOWN:
            print(f"    and {len(crossing) - SHOWN} more")
