"""Lists opened: SOP lists, csv files and folders to Records, with all that is wrong with them."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from core.errors import InputError
from data.check import place_of
from data.embedded import EMBEDDED, embedded_data
from data.formats.folders import find_images, label_folders
from data.formats.problems import SPLITS, Problems
from data.formats.text import parse
from data.image.decode import check_opencv
from data.names import read_names
from data.records import Records
from data.repeats import fold_repeats, note_repeats
from data.soundness import first_broken
from data.vocabulary import as_labels

LIST_SUFFIXES = (".txt", ".csv")
SHOWN_FAULTS = 20


def open_list(path, data_dir, split):
    """Read one list; `split` picks the rows of a csv: "train", "test", or None for all. As `open_lists`."""
    return open_lists([(path, split)], data_dir)[0]


def open_lists(wanted, data_dir):
    """Read lists, [(path, split), ...], to ImageLists; every row is checked, and every image to exist.

    A list is an SOP list, a csv, or a folder per label (folders.py). A relative path of a list is looked up below
    `data_dir`, then as it stands. Where `data_dir` is None that is the embedded set, and a list that is not there
    brings its own folder. Images to test with stand once in their list (repeats.py). Raises InputError for a missing
    folder, and one for all that is wrong with the lists, a line each, by file:line.
    """
    check_opencv()
    places = [find_list(path, data_dir) for path, _ in wanted]
    opened, told = [], {}
    for (path, split), place in zip(wanted, places):
        images, faults = _read_found(path, *place, split)
        opened.append(images)
        told.update(dict.fromkeys(faults))  # a csv that is opened for both splits says some things twice
    told = list(told)
    if not told and data_dir is None:
        told = _strangers(wanted, places)
    if len(told) > SHOWN_FAULTS:
        told[SHOWN_FAULTS:] = [f"and {len(told) - SHOWN_FAULTS} faults more; python reader.py check shows all"]
    if told:
        raise InputError("\n".join(told))
    return opened


def _strangers(wanted, places):
    """A sentence where one list is the embedded set's and another is not, which nobody can mean; else none."""
    of_embedded = [folder.resolve() == EMBEDDED.resolve() for _, folder in places]
    if len(set(of_embedded)) < 2:
        return []
    own, embedded = wanted[of_embedded.index(False)], wanted[of_embedded.index(True)]
    return [
        f"the {own[1]} list is {str(own[0])!r}, but the {embedded[1]} list is the embedded set's {str(embedded[0])!r}; "
        f"give --{embedded[1]}_list{', or --val_classes' * (embedded[1] == 'test')}"
    ]


def data_folder(data_dir):
    """The folder that paths start from. Raises InputError where there is none."""
    folder = embedded_data() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data_dir {str(folder)!r} is not a folder (Stanford Online Products: sh data/download_sop.sh)"
        )
    return folder


def find_list(path, data_dir):
    """(file or folder of a list, or None where it is nowhere; the folder that its paths start from)."""
    folder = data_folder(data_dir)
    below = Path(os.path.join(folder, path))
    if (below.is_file() or below.is_dir()) and not (data_dir is None and os.path.isabs(path)):
        return below, folder
    here = Path(path)
    if not (here.is_file() or here.is_dir()):
        return None, folder
    return here, here.parent if data_dir is None else folder


def read_list(path, data_dir, split):
    """(ImageList of the rows that are right, or None for no such row; sentences on all that is wrong, by file:line).

    split: "train", "test", "list" (unnamed, a train list's rules), or None: all rows, of whatever split.
    """
    return _read_found(path, *find_list(path, data_dir), split)


def _read_found(path, file, folder, split):
    """As `read_list`, of a list that was looked for already."""
    if file is None:
        return None, [f"no list {str(path)!r}, neither in {str(folder)!r} nor from here"]
    faults = Problems()
    images = _read_folder(file, faults) if file.is_dir() else _read_file(file, folder, split, faults)
    if images is not None:
        images = _with_names(images, faults)
        if split == "test":
            images = fold_repeats(images, faults)
            _tell_roles(images, faults)
        elif split is not None:
            images = note_repeats(images)
        images = dataclasses.replace(images, notes=tuple(faults.noted(file)) + images.notes)
    return images, faults.told(file)


def _read_folder(folder, faults):
    """The ImageList of a folder per label; None, and `faults` told, where it is none."""
    try:
        columns, note = label_folders(folder)
    except InputError as error:
        faults.say(0, str(error))
        return None
    faults.notes += [note] if note else []
    columns["labels"] = as_labels(columns["labels"])
    return _assemble(folder, {**columns, "files": [_file_key(os.stat(path)) for path in columns["paths"]]})


def _read_file(file, folder, split, faults):
    """The ImageList of a file; None, and `faults` told, where not one row is right."""
    columns = parse(file, split, faults)
    if columns is None:
        return None
    paths = [str(folder / path) for path in columns["paths"]]
    root = os.path.join(os.path.abspath(folder), "")
    files = []
    for line, written, whole in zip(columns["lines"], columns["paths"], paths):
        files.append(None)
        if (".." in written or os.path.isabs(written)) and not os.path.abspath(whole).startswith(root):
            faults.say(line, f"path {written!r} leads out of data_dir {str(folder)!r}; give a folder that holds it")
        elif not os.path.isfile(whole):
            faults.say(line, f"no image {whole!r}")
        else:
            files[-1] = _file_key(os.stat(whole))
    there = np.array([key is not None for key in files])
    if not there.any():
        return None
    columns["files"] = [key or (0, 0) for key in files]
    return _assemble(file, {**columns, "paths": paths}).take(there)


def _file_key(status):
    """What tells a file apart from all others on this machine."""
    return status.st_dev, status.st_ino


def _with_names(images, faults):
    try:
        return dataclasses.replace(images, names=read_names(images.source))
    except InputError as error:
        faults.say(0, str(error))
        return images


def _tell_roles(images, faults):
    """Tell `faults` where a list to test with has nobody who asks, or nothing that can be found."""
    for flags, column, lack in (
        (images.is_query, "is_query", "nobody asks"),
        (images.is_gallery, "is_gallery", "nothing can be found"),
    ):
        if not flags.any():
            faults.say(0, f"no row of the split {SPLITS['test']} has {column} True, so {lack}")


def _assemble(source, columns):
    """An ImageList of columns, {name: list}; without flags every row is a query and in the gallery."""
    everyone = np.ones(len(columns["paths"]), dtype=bool)
    kinds = {"lines": np.int64, "files": np.uint64}
    arrays = {name: np.array(column, dtype=kinds.get(name)) for name, column in columns.items() if column is not None}
    return Records(str(source), **{"labels": None, "is_query": everyone, "is_gallery": everyone, **arrays})


def is_list(inputs):
    """Whether what --input names is one list, and not images."""
    return len(inputs) == 1 and Path(inputs[0]).suffix.lower() in LIST_SUFFIXES


def open_inputs(inputs, data_dir):
    """What infer.py embeds: a list (.txt, .csv; all of its rows), a folder (searched throughout) or image files.

    Images that come without a list have no labels. Raises InputError for what does not exist or holds no image.
    """
    check_opencv()
    if is_list(inputs):
        return open_list(inputs[0], data_dir, None)
    paths, notes = [], []
    for path in map(Path, inputs):
        if path.is_dir():
            found, note = find_images(path)
            paths += found
            notes += [note] if note else []
        elif path.is_file():
            paths.append(str(path))
        else:
            raise InputError(f"no file or folder {str(path)!r}")
    if not paths:
        left_out = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"no image in {', '.join(map(str, inputs))}{left_out}")
    return dataclasses.replace(_assemble(inputs[0], {"paths": paths}), notes=tuple(notes))


def refuse_broken_images(lists):
    """Raise InputError where images of some lists cannot be read: found now, and not in the middle of the work."""
    told = []
    for images in lists:
        broken = first_broken(images, SHOWN_FAULTS + 1)
        told += [f"{place_of(images, row)}: {sentence}" for row, sentence in broken]
    if len(told) > SHOWN_FAULTS:
        told[SHOWN_FAULTS:] = ["and more of them; python reader.py check shows all"]
    if told:
        raise InputError("\n".join(told))


def hold_out(images, count, seed=0):
    """Split a list by label: `count` random labels for validation. Returns (train, validation).

    Which labels depends on `count` and `seed` alone, so that two stages of any --seed hold out the same. Each image to
    validate with stands once in its list.
    """
    labels = images.vocabulary.labels
    if not 0 < count < len(labels):
        raise InputError(f"val_classes is {count}; with {len(labels)} train labels it can be 1 to {len(labels) - 1}")
    held = np.isin(images.labels, np.random.default_rng([seed, count]).permutation(labels)[:count])
    faults = Problems()
    validation = images.take(held)
    validation = fold_repeats(validation, faults)
    if faults:
        raise InputError("\n".join(faults.told(images.source)))
    return images.take(~held), validation
