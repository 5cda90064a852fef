"""What infer.py does with an index: flags, the model that its card remembers, tables and pictures of what was found."""

import json
import math
import os
import shlex
import unicodedata
from pathlib import Path

import numpy as np

from config import options
from core.console import log
from core.errors import InputError
from core.files import replacing
from core.types import boolean, positive
from data.formats.problems import Problems
from data.formats.text import parse
from data.image.files import load, read_image
from data.lists import SHOWN_FAULTS, find_list, is_list
from data.names import Names
from report.drawing import plain_text
from report.neighbours import neighbour_sheet
from retrieval.index.backends import BACKENDS, make_backend
from retrieval.index.folder import CARD
from retrieval.index.index import Index, check_free
from retrieval.index.items import Lookup, item_name
from session import MODEL_DEFAULTS, model_flags, read_model_flags

MODES = ("build_index", "add_to", "delete_from", "search")
BELONGS = {"backend": "build_index", "overwrite": "build_index", "k": "search", "search_memory_mb": "search"}
LOST = 0.05  # of its recall since it was built, from which on an index had better be built anew
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # kinds of characters: control, surrogate, line and paragraph ends
LONGEST_NAME = 40  # characters of a label's name in a table
SHOWN, DRAWN, DRAWN_HITS = 100, 50, 20  # queries in the tables and in the picture, and items a query there
DELETES = (
    "delete the --input from the index in this folder: images (with all of their boxes), IMAGE#L,T,R,B (one box, as "
    "tables show it), folders, or a list (exactly its rows)"
)


def add_flags(parser, argv):
    """Flags of an index, and the options of the backend that `argv` names, straight from its signature."""
    group = parser.add_argument_group("index (cosine; one of the first four)")
    group.add_argument("--build_index", help="make an index of the --input in this folder")
    group.add_argument("--add_to", help="add the --input to the index in this folder")
    group.add_argument("--delete_from", help=DELETES)
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
    log(f"--pretrained_model={shown(source)} taken from {index.folder}")
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
    whats = {"boxes": images.boxes, "names": images.names.label}
    index = Index.build(
        args.build_index, embeddings, paths, images.labels, fingerprint, backend, own, args.overwrite, origin, **whats
    )
    twice = len(images) - len(index)
    print(
        f"{len(index)} images in {index.folder}, backend {backend}"
        + (f"; {twice} skipped, which come twice" if twice else "")
    )
    _say_fitness(index)


def add(index, images, embeddings, fingerprint):
    """Add embedded images to an index and say what became of them."""
    whats = {"boxes": images.boxes, "names": images.names.label}
    added = index.add(embeddings, absolute(images.paths), images.labels, fingerprint, **whats)
    parts = [f"{added.new} images added to {index.folder}, which now holds {len(index)}"]
    parts += [f"{added.replaced} replaced, whose picture has changed"] if added.replaced else []
    parts += [f"{added.skipped} skipped, which were there already"] if added.skipped else []
    print("; ".join(parts))
    if added.relabelled:
        print(
            f"note: {added.relabelled} of those skipped have another label in the index, which stays; delete them and "
            "add them again to change it"
        )
    if added.renamed:
        label, before, now = added.renamed[0]
        others = f", and {len(added.renamed) - 1} more labels have another name" if len(added.renamed) > 1 else ""
        print(f"note: the label {printable(label)} is called {now!r} now, no longer {before!r}{others}")
    _say_fitness(index)


def _say_fitness(index):
    """Say how much an approximate index finds, and what would be better."""
    recall = index.card["recall"]
    if recall:
        print(recall_text(recall))
        if recall["value"] < recall.get("when_built", recall["value"]) - LOST:
            print(
                f"recall@{recall['at']} was {recall['when_built']:.4f} when the index was built; build it anew, of all "
                f"its images: {_build_command(index)}"
            )
    if index.advice():
        print(index.advice())


def recall_text(recall: dict) -> str:
    """What a card says of recall, and what it is true of."""
    text = f"recall@{recall['at']} against exact search: {recall['value']:.4f} ({recall['queries']} queries)"
    if recall.get("changes") == 0:
        return text
    since = f"{recall['changes']:,} changes since" if "changes" in recall else "how many changes since is not known"
    return f"{text}, measured when it held {recall['items']:,} items; {since}"


def _build_command(index):
    """The line that makes an index like this one in its place, but for the images."""
    card = index.card
    chosen = {option.name: card["options"].get(option.name) for option in BACKENDS.options(card["backend"])}
    defaults = {option.name: option.default for option in BACKENDS.options(card["backend"])}
    flags = {"build_index": shown(index.folder), "overwrite": True, "backend": card["backend"]}
    flags |= {name: value for name, value in chosen.items() if value not in (None, defaults[name])}
    source = (card["origin"] or {}).get("pretrained_model")
    flags |= {"pretrained_model": shown(source)} if isinstance(source, str) else {}
    words = [shlex.quote(f"--{name}={value}") for name, value in flags.items()]
    return printable(" ".join(["python infer.py", *words, "--input ..."]))


def delete(folder: str, inputs: list[str], data_dir: str | None = None):
    """Delete images, one box, all that lies below a folder, or the rows of a list; images need not exist any more.

    Raises InputError, and deletes nothing, where one of them is not in the index.
    """
    index = Index.open(folder)
    lookup, wanted = Lookup(index.rows), []
    for given, path in zip(inputs, absolute(inputs)):
        below = lookup.below(path)
        if lookup.ids(path) or below:
            wanted += [path] * bool(lookup.ids(path)) + below
        elif is_list([given]):
            wanted += _rows_of_list(given, data_dir)
        else:
            wanted.append(path)  # which is not there, as Index.delete says
    print(f"{index.delete(wanted)} images deleted from {folder}, which now holds {len(index)}")
    _say_fitness(index)


def _rows_of_list(path, data_dir):
    """(path from the root, box or None) of each row of a list, whose images need not be there any more."""
    file, folder = find_list(path, data_dir)
    if file is None:
        raise InputError(f"no list {str(path)!r}, neither in {str(folder)!r} nor from here")
    faults = Problems()
    columns = parse(file, None, faults)
    if faults:
        told = faults.told(file)
        more = [f"and {len(told) - SHOWN_FAULTS} faults more"] if len(told) > SHOWN_FAULTS else []
        raise InputError("\n".join(told[:SHOWN_FAULTS] + more))
    paths = absolute(folder / path for path in columns["paths"])
    boxes = [None if math.isnan(box[0]) else tuple(box) for box in columns.get("boxes", [])] or [None] * len(paths)
    return list(zip(paths, boxes))


def search(index, images, embeddings, fingerprint, args, outputs):
    """Print the nearest items of each image as a table; write them to .json, and as a picture to .png.

    Files come first, so that they are there whatever becomes of the tables, and .json before .png, for which an image
    may be missing: that InputError is raised once all else is done.
    """
    k, memory = args.k or 10, (args.search_memory_mb or 256) * 2**20
    hits = index.search(embeddings, k, fingerprint, memory)
    called = index.names, images.names.label
    written, failure = [], None
    for output in sorted(outputs, key=lambda path: path.suffix):
        try:
            (_draw if output.suffix == ".png" else _write)(output, images, hits, *called)
            written.append(output)
        except InputError as error:
            failure = failure or error
    if k > len(index):
        log(f"--k={k}: {index.folder} holds {len(index)} images, and all of them are shown")
    _print_tables(images, hits, *called)
    if len(images) > DRAWN and any(output.suffix == ".png" for output in outputs):
        print(f"the picture shows {DRAWN} of {len(images)} queries")
    _say_fitness(index)
    if written:
        print(f"written: {', '.join(str(output) for output in outputs if output in written)}")
    if failure:
        raise failure


def _print_tables(images, hits, names, asked_names):
    """A table of its hits for each of the first queries.

    names: what labels are called, {label as text: name}, in the index; asked_names: in the list of the queries. Each
    is what counts for its own images, and makes up for what the other lacks.
    """
    called = _called(hits.labels[:SHOWN].ravel().tolist(), {**asked_names, **names})
    for query in range(min(len(images), SHOWN)):
        columns = (column[query].tolist() for column in (hits.scores, hits.labels, hits.paths))
        rows = [
            (score, called[label], printable(item_name(shown(path), box)))
            for score, label, path, box in zip(*columns, hits.boxes[query])
        ]
        width = max(8, *(len(label) for _, label, _ in rows))
        print(printable(item_name(shown(images.paths[query]), images.box_of(query))))
        print(f"{'rank':>6} {'score':>8} {'label':>{width}}  path")
        for rank, (score, label, path) in enumerate(rows, start=1):
            print(f"{rank:>6} {score:>8.4f} {label:>{width}}  {path}")
    if len(images) > SHOWN:
        print(f"tables of {len(images) - SHOWN} more queries are left out; --output=hits.json takes them all")


def _called(labels, names):
    """What each of some labels is called in tables and pictures, {label: text}; `-` where nobody knows it."""
    known = [label for label in dict.fromkeys(labels) if label is not None]
    texts = Names(names, {}).of_labels(np.array(known, dtype=object)).tolist()
    short = [text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..." for text in map(printable, texts)]
    return {None: "-", **dict(zip(known, short))}


def _write(path, images, hits, names, asked_names):
    """One object a query: its path, box, label and name, and its hits, nearest first; unknown ones are null."""
    names, asked_names = {**asked_names, **names}, {**names, **asked_names}
    columns = [column.tolist() for column in (hits.ids, hits.scores, hits.paths, hits.labels)]
    answers = []
    queries = zip(absolute(images.paths), _labels_of(images))
    for query, (path_asked, label_asked) in enumerate(queries):
        found = []
        for rank, (id_, score, place, label) in enumerate(zip(*(column[query] for column in columns)), start=1):
            box = hits.boxes[query, rank - 1]
            found.append({"rank": rank, "id": id_, "score": score, **_item(place, box, label, names)})
        asked = _item(path_asked, images.box_of(query), label_asked, asked_names)
        answers.append({"query": asked.pop("path"), **asked, "hits": found})
    with replacing(path) as file:
        file.write((json.dumps(answers, indent=2) + "\n").encode())


def _item(path, box, label, names):
    """An image as hits.json has it; `name` is there where its label has one."""
    box = None if box is None or np.isnan(box).any() else box.tolist()
    name = names.get(str(label)) if label is not None else None
    return {"label": label, **({} if name is None else {"name": name}), "path": path, "box": box}


def _labels_of(images):
    """The label of each image of a list, int or str; None where nobody knows any."""
    return [None] * len(images) if images.labels is None else images.labels.tolist()


def _draw(path, images, hits, names, asked_names):
    """The first queries with their hits, framed by right and wrong where both labels are known."""
    rows, captions, texts = [], [], []
    labels = _labels_of(images)
    asked_called = _called(labels[:DRAWN], {**names, **asked_names})
    called = _called(hits.labels[:DRAWN].ravel().tolist(), {**asked_names, **names})
    for query in range(min(len(images), DRAWN)):
        label, shown_hits = labels[query], []
        columns = (column[query, :DRAWN_HITS].tolist() for column in (hits.paths, hits.labels, hits.scores))
        for place, found, score, box in zip(*columns, hits.boxes[query]):
            if not os.path.isfile(place):
                raise InputError(f"no image {place!r}: it has moved since it was indexed, and {str(path)!r} shows it")
            # By their texts: a label 7 is an integer in a list of integers, a string in one with names.
            is_right = None if label is None or found is None else str(label) == str(found)
            shown_hits.append((read_image(place, box), is_right, score))
        rows.append((load(images, query), shown_hits))
        captions.append(item_name(Path(images.paths[query]).name, images.box_of(query)))
        theirs = hits.labels[query, :DRAWN_HITS].tolist()
        texts.append((_drawn(label, asked_called), [_drawn(one, called) for one in theirs]))
    is_any_known = any(label is not None for label in [*asked_called, *called])
    neighbour_sheet(rows, path, captions=captions, labels=texts if is_any_known else None)


def _drawn(label, called):
    """What a picture, which has ASCII only, shows for a label: its name if any of it is left, else the label itself."""
    name = called[label]
    return name if label is None or any(map(str.isalnum, plain_text(name))) else str(label)


def absolute(paths):
    """Paths as an index holds them: from the root, so that it works from any folder."""
    return [os.path.abspath(path) for path in map(str, paths)]


def shown(path):
    """A path from where the user stands, if it lies below."""
    path, here = str(path), os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def printable(text: str) -> str:
    """A text on one line that a terminal can take: control characters, and bytes that are no UTF-8, as escapes."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNPRINTABLE else character
        for character in text
    )
