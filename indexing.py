"""What infer.py does with an index: flags, the model that its card remembers, tables and pictures of what was found."""

import os
from pathlib import Path

import numpy as np

from engine import options
from engine.flag_types import boolean, positive
from engine.run import say
from errors import InputError
from reader import load, read_image
from retrieval.backends import BACKENDS, make_backend
from retrieval.index import Index, check_free
from retrieval.index_folder import CARD
from retrieval.picture import neighbour_sheet
from session import MODEL_DEFAULTS, model_flags, read_model_flags
from storage import replace_json

MODES = ("build_index", "add_to", "delete_from", "search")
BELONGS = {"backend": "build_index", "overwrite": "build_index", "k": "search", "search_memory_mb": "search"}
UNKNOWN = -1  # the label of an image that came without a list
SHOWN, DRAWN, DRAWN_HITS = 100, 50, 20  # queries in the tables and in the picture, and items a query there


def add_flags(parser, argv):
    """Flags of an index, and the options of the backend that `argv` names, straight from its signature."""
    group = parser.add_argument_group("index (cosine; one of the first four)")
    group.add_argument("--build_index", help="make an index of the --input in this folder")
    group.add_argument("--add_to", help="add the --input to the index in this folder")
    group.add_argument("--delete_from", help="delete the --input, images or folders, from the index in this folder")
    group.add_argument("--search", help="look for the nearest of each --input image in the index in this folder")
    group.add_argument("--k", type=positive, help="items to find (default: 10)")
    group.add_argument("--search_memory_mb", type=positive, help="memory that a search may take (default: 256)")
    group.add_argument("--overwrite", type=boolean, default=False, help="replace an index that is in that folder")
    group.add_argument("--backend", help=f"one of {', '.join(BACKENDS.names())} (default: exact)")
    name = options.first_pass(argv, backend={}).backend
    if name is not None:
        options.add_option_flags(parser.add_argument_group(f"backend: {name}"), BACKENDS, name)


def chosen_mode(args):
    """Which of MODES the flags ask for, or None. Raises InputError for two, and for flags that go with another."""
    modes = [name for name in (*MODES, "scores") if getattr(args, name)]
    if len(modes) > 1:
        raise InputError(f"--{modes[0]} and --{modes[1]} exclude each other; give one")
    mode = modes[0] if modes and modes[0] in MODES else None
    for name, owner in BELONGS.items():
        if getattr(args, name) and mode != owner:
            raise InputError(f"--{name} goes with --{owner} only")
    if mode in ("add_to", "delete_from", "search") and not args.input:
        raise InputError(f"--{mode} needs --input")
    if mode == "delete_from" and args.output:
        raise InputError("--output does not go with --delete_from, which writes none")
    if mode == "build_index" and not args.pretrained_model:
        raise InputError("--build_index needs --pretrained_model: nothing can be found again with random weights")
    return mode


def backend_options(args):
    """The name of the backend to build with, and its options."""
    name = args.backend or "exact"
    return name, {option.name: getattr(args, option.name) for option in BACKENDS.options(name)}


def open_index(args, mode):
    """The index to add to or to search; None for one to build, once that is sure to be possible."""
    if mode == "build_index":
        make_backend(*backend_options(args))
        check_free(args.build_index, args.overwrite)
        return None
    index = Index.open(args.search if mode == "search" else args.add_to)
    if mode == "search" and not len(index):
        raise InputError(f"index {args.search!r} is empty: there is nothing to find")
    return index


def model_of(args, index):
    """--pretrained_model and the model flags; where an index is there and they are left open, those of its card."""
    if index is None or args.pretrained_model:
        return args.pretrained_model, model_flags(args)
    source, made = (index.card["origin"] or {}).get("pretrained_model"), index.card["fingerprint"] or {}
    source = source if isinstance(source, str) else None
    if source is None or source != "imagenet" and not os.path.exists(source):
        gone = f"its model {source!r} is not there any more" if source else "its card names no model"
        raise InputError(f"index {str(index.folder)!r}: {gone}; give --pretrained_model")
    say(f"--pretrained_model={shown(source)} taken from {index.folder}")
    made = {**MODEL_DEFAULTS, **read_model_flags(made, index.folder / CARD)}
    flags = {name: getattr(args, name) for name in MODEL_DEFAULTS}
    return source, {name: made[name] if value is None else value for name, value in flags.items()}


def folder_for_rows(args):
    """Where embeddings wait for the index to build or to add to: a folder on its disk; None without such an index."""
    if not (args.build_index or args.add_to):
        return None
    folder = Path(os.path.abspath(args.build_index or args.add_to))
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def build(args, images, embeddings, fingerprint):
    """Make the index of embedded images and say what it is."""
    source = args.pretrained_model
    origin = {"pretrained_model": source if source == "imagenet" else os.path.abspath(source)}
    paths, (backend, own) = absolute(images.paths), backend_options(args)
    index = Index.build(
        args.build_index, embeddings, paths, images.labels, fingerprint, backend, own, args.overwrite, origin
    )
    _say_size(f"{len(index)} images in {index.folder}, backend {backend}", len(images) - len(index), index)


def add(index, images, embeddings, fingerprint):
    """Add embedded images to an index and say how many are new."""
    ids, skipped = index.add(embeddings, absolute(images.paths), images.labels, fingerprint)
    _say_size(f"{len(ids)} images added to {index.folder}, which now holds {len(index)}", skipped, index)


def _say_size(text, skipped, index):
    print(text + (f"; {skipped} skipped, whose path was there already" if skipped else ""))
    recall = index.card["recall"]
    if recall and index.card["state"]["built"] == index.card["generation"]:
        print(f"recall@{recall['at']} against exact search: {recall['value']:.4f} ({recall['queries']} queries)")
    if index.advice():
        print(index.advice())


def delete(folder, inputs, data_dir=None):
    """Delete images, or all that lie below a folder, from an index; they need not exist any more."""
    index = Index.open(folder)
    known, wanted = np.array(index.rows.paths()), []
    for path in absolute(inputs):
        below = known[np.char.startswith(known, os.path.join(path, ""))].tolist() if len(known) else []
        wanted += below or [path]
    print(f"{index.delete(wanted)} images deleted from {folder}, which now holds {len(index)}")


def search(index, images, embeddings, fingerprint, args, outputs):
    """Print the nearest items of each image as a table; write them to .json, and as a picture to .png."""
    k, memory = args.k or 10, (args.search_memory_mb or 256) * 2**20
    hits = index.search(embeddings, k, fingerprint, memory)
    if k > len(index):
        say(f"--k={k}: {index.folder} holds {len(index)} images, and all of them are shown")
    for query in range(min(len(images), SHOWN)):
        print(f"{shown(images.paths[query])}\n{'rank':>6} {'score':>8} {'label':>8}  path")
        columns = (column[query].tolist() for column in (hits.scores, hits.labels, hits.paths))
        for rank, (score, label, path) in enumerate(zip(*columns), start=1):
            print(f"{rank:>6} {score:>8.4f} {'-' if label == UNKNOWN else label:>8}  {shown(path)}")
    if len(images) > SHOWN:
        print(f"tables of {len(images) - SHOWN} more queries are left out; --output=hits.json takes them all")
    if len(images) > DRAWN and any(output.suffix == ".png" for output in outputs):
        print(f"the picture shows {DRAWN} of {len(images)} queries")
    for output in sorted(outputs, key=lambda path: path.suffix):  # .json first: for a picture an image may be missing
        (_draw if output.suffix == ".png" else _write)(output, images, hits)
    if outputs:
        print(f"written: {', '.join(map(str, outputs))}")


def _write(path, images, hits):
    """One object a query: its path and label, and its hits, nearest first."""
    names = ("id", "score", "label", "path")
    columns = [column.tolist() for column in (hits.ids, hits.scores, hits.labels, hits.paths)]
    found = [
        [{"rank": rank, **dict(zip(names, hit))} for rank, hit in enumerate(zip(*query), start=1)]
        for query in zip(*columns)
    ]
    asked = zip(absolute(images.paths), images.labels.tolist(), found)
    replace_json(path, [{"query": query, "label": label, "hits": own} for query, label, own in asked])


def _draw(path, images, hits):
    """The first queries with their hits, framed by right and wrong where both labels are known."""
    rows, captions = [], []
    for query in range(min(len(images), DRAWN)):
        label, shown_hits = images.labels[query], []
        columns = (column[query, :DRAWN_HITS].tolist() for column in (hits.paths, hits.labels, hits.scores))
        for place, theirs, score in zip(*columns):
            if not os.path.isfile(place):
                raise InputError(f"no image {place!r}: it has moved since it was indexed, and {str(path)!r} shows it")
            is_right = None if UNKNOWN in (label, theirs) else bool(label == theirs)
            shown_hits.append((read_image(place), is_right, score))
        rows.append((load(images, query), shown_hits))
        captions.append(Path(images.paths[query]).name)
    neighbour_sheet(rows, path, captions=captions)


def absolute(paths):
    """Paths as an index holds them: from the root, so that it works from any folder."""
    return [os.path.abspath(path) for path in map(str, paths)]


def shown(path):
    """A path from where the user stands, if it lies below."""
    path, here = str(path), os.path.join(os.getcwd(), "")
    return path.removeprefix(here)
