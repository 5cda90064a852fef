"""Embeddings of a list: made by a model, kept with what they belong to, and used again only for the very same."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from engine import ranks
from engine.embed import embed, embed_batches, embed_own
from engine.run import package_versions, say
from engine.shard import open_shard
from errors import InputError, meant_by
from parsing import Faults, tell_unknown
from reader import ImageList
from repeats import find_repeats, fold_repeats
from retrieval.items import item_name
from retrieval.segments import parts
from storage import RowFile, read_npz, replacing, write_npz
from vocabulary import NO_NAMES, Names

TEXT, INTEGERS, FLAGS, NUMBERS = "U", "iu", "b", "f"  # numpy's kinds
COLUMNS = {"paths": TEXT, "labels": TEXT + INTEGERS, "is_query": FLAGS, "is_gallery": FLAGS}
COLUMNS |= {"categories": TEXT + INTEGERS, "sequences": TEXT + INTEGERS, "boxes": NUMBERS}
OF_OURS = ("model", "names", "format")  # what stands in our .npz beside the columns
FORMAT = 2  # before it an unknown label was -1
UNKNOWN = -1
KEY_BYTES = 16  # of the key of an image; as many as four numbers of an embedding
KEY_NUMBERS = KEY_BYTES // 4


def fingerprint(model, flags):
    """What decides an image's embedding: architecture, weights (SHA-256), and the transform; plain JSON.

    model: an Embedder; flags: the model flags (session.MODEL_DEFAULTS) it was opened with.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.state_dict().items(), ("mean", model.mean), ("std", model.std)]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    transform = {"image_shape": list(flags["image_shape"]), "resize_short_size": flags["resize_short_size"]}
    return {**model.facts, "weights": digest.hexdigest(), **transform}


def embed_list(images, loader, model, device, made, cache=None):
    """Embeddings (N, D) float32 of an ImageList, which `loader` loads, on the CPU.

    made: plain JSON on all else that decides them: the model's fingerprint, precision, runtime. cache: a file to take
    them from if it holds those of the same packages, image contents and `made`, and to write them to if not; None for
    neither. Several ranks share the work, and the first returns all of it, the others None.
    """
    kept, key = _look_up(cache, images, device, made) if ranks.first() else (None, None)
    if ranks.first_says(kept is not None):
        return kept
    embeddings = embed(model, loader, device)
    if key is not None:
        write_npz(cache, {"key": np.array(key), "embeddings": embeddings.numpy()})
    return embeddings


def embed_shard(images, loader, model, device, made, cache=None):
    """As embed_list, but each rank keeps those that it makes: its Shard. Each has a cache of its own beside `cache`."""
    rows = loader.batch_sampler.rows()
    if cache is not None:
        cache = cache.with_name(f"{cache.stem}_{ranks.rank()}_of_{ranks.count()}{cache.suffix}")
    kept, key = _look_up(cache, images.take(rows), device, made)
    embeddings = embed_own(model, loader, device) if kept is None else kept
    if kept is None and key is not None:
        write_npz(cache, {"key": np.array(key), "embeddings": embeddings.numpy()})
    return open_shard(embeddings, torch.from_numpy(rows), len(images), device)


def _look_up(cache, images, device, made):
    """(embeddings that a cache holds of the images, or None; the key to keep them under, None without a cache)."""
    if cache is None:
        return None, None
    contents = _contents(images)
    _note_copies(images, contents)
    facts = {**made, "device": device.type, "images": _list_digest(images, contents), **package_versions()}
    facts[made["runtime"]] = version(made["runtime"])
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        kept = read_npz(cache, ("key", "embeddings"))
    except InputError:  # not there, or not to be read
        return None, key
    if str(kept["key"]) != key:
        return None, key
    say(f"embeddings taken from {cache} (same weights, transform and images)")
    return torch.from_numpy(kept["embeddings"]), key


def _contents(images):
    """SHA-256 of the content of each image file of a list, in order."""
    digests = []
    for path in images.paths.tolist():
        try:
            digests.append(hashlib.sha256(Path(path).read_bytes()).digest())
        except OSError as error:
            raise InputError(f"cannot read image {path!r}: {error.strerror}") from None
    return digests


def _list_digest(images, contents):
    digest = hashlib.sha256(b"".join(contents))
    digest.update(b"" if images.boxes is None else images.boxes.tobytes())
    return digest.hexdigest()


def _note_copies(images, contents):
    """Say how many images are byte for byte another one of their label: each finds the other as a right answer."""
    boxes = [None] * len(images) if images.boxes is None else map(bytes, images.boxes)
    groups = Counter(zip(contents, images.vocabulary.codes.tolist(), boxes))
    copies = sum(number for number in groups.values() if number > 1)
    if copies:
        say(
            f"note: {copies} of {len(images)} images are byte for byte another image of their label, which they find "
            "as a right answer; python reader.py check names them"
        )


class KeyedRows:
    """A RowFile of embeddings, and beside it one of keys, that tell which image each row is of.

    Rows come in any order; `find` tells where which image stands.
    """

    def __init__(self, rows: RowFile, keys: RowFile):
        self.rows, self.keys, self.width = rows, keys, rows.width
        self.cut(min(len(rows), len(keys)))  # a process may have been killed between the two

    def __len__(self):
        return len(self.rows)

    def append(self, embeddings: np.ndarray, keys: np.ndarray):
        """Write embeddings (n, width) of the images with these keys (n, KEY_BYTES) uint8."""
        self.keys.append(keys.view("<f4"))
        self.rows.append(embeddings)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the images with keys (N, KEY_BYTES) stand: (N,) int64, the first row of each, -1 for none."""
        if not len(self):
            return np.full(len(keys), -1)
        places = {}
        for row, key in enumerate(self.keys.mapped().view(np.uint8)):
            places.setdefault(key.tobytes(), row)
        return np.array([places.get(key.tobytes(), -1) for key in keys], dtype=np.int64)

    def cut(self, rows: int):
        self.rows.cut(rows)
        self.keys.cut(rows)


class Ordered:
    """The embeddings of N images out of a RowFile, read as if that were in their order. order (N,): the row of each."""

    def __init__(self, rows: RowFile, order: np.ndarray):
        self.rows, self.order, self.width = rows, order, rows.width

    def __len__(self):
        return len(self.order)

    def head(self, rows):
        return self.rows.mapped()[self.order[:rows]]

    def blocks(self, memory=2**22):
        for part in parts(len(self), self.width, memory):
            yield self.rows.mapped()[self.order[part]]

    def mapped(self):
        """All of them, in memory."""
        return self.rows.mapped()[self.order]


def image_keys(images) -> np.ndarray:
    """What tells an image and its state from all others, (N, KEY_BYTES) uint8: path, box, size, time of change."""
    keys = np.empty((len(images), KEY_BYTES), np.uint8)
    for row, path in enumerate(images.paths.tolist()):
        try:
            status = os.stat(path)
            state = status.st_size, status.st_mtime_ns
        except OSError:  # gone since it was listed, as reading it will tell
            state = (-1, -1)
        box = images.box_of(row)
        text = os.fsencode(path) + b"\0" + repr((state, None if box is None else box.tolist())).encode()
        keys[row] = np.frombuffer(hashlib.blake2b(text, digest_size=KEY_BYTES).digest(), np.uint8)
    return keys


@contextlib.contextmanager
def rows_on_disk(path, made, width, go_on=False):
    """KeyedRows in the file `path`, behind a line of JSON that tells how they were made, and in `path`.keys.

    Both are removed when all went well. made: plain JSON on all that decides a row beside its image. go_on: keep those
    that a stopped process left. Raises InputError where those are made by something else, or are there unasked.
    """
    made = {"keyed": True, **made}
    path, text = Path(path), json.dumps(made, sort_keys=True).encode()
    line = text + b" " * (-(len(text) + 1) % 64) + b"\n"  # the numbers behind it stand as arrays in memory do
    beside = path.with_name(f"{path.name}.keys")
    try:
        files = [open(name, "r+b" if name.exists() else "w+b", buffering=0) for name in (path, beside)]
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    with files[0] as file, files[1] as keys:
        there = file.readline()
        rows = RowFile(file, width, path, len(there))
        if not len(rows):
            file.seek(0)
            file.truncate()
            file.write(line)
            rows = RowFile(file, width, path, len(line))
        elif not go_on:
            raise InputError(f"{str(path)!r} is what a stopped run has done; go on with --continue, or remove it")
        elif there != line:
            raise InputError(f"{str(path)!r} cannot be continued; what differs: {_differences(there, made)}")
        yield KeyedRows(rows, RowFile(keys, KEY_NUMBERS, beside))
    path.unlink()
    beside.unlink()


@contextlib.contextmanager
def unnamed_rows(folder, width):
    """A RowFile in `folder` (None: that of temporary files) that is gone with its context, or with its process."""
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise InputError(f"cannot write to folder {str(folder)!r}: {error.strerror}") from None
    with file:
        yield RowFile(file, width, folder or tempfile.gettempdir())


def _differences(line, made):
    """Names of the facts in a line of JSON, whatever it holds, that are not those of `made`."""
    try:
        theirs = dict(json.loads(line))
    except (ValueError, TypeError):
        return "it is no file of ours"
    return ", ".join(name for name in {**theirs, **made} if theirs.get(name) != made.get(name))


def embed_rows(rows, images, open_images, model, device, batch_size):
    """Append to a RowFile or KeyedRows the embeddings of those of `images` that it lacks, batch by batch.

    open_images: function from ImageList to loader, in batches of `batch_size`. Returns for each image its row, (N,)
    int64, -1 where it could not be read. Where a stopped process has done the first images of the same list, batches
    begin where they would have begun, so that the rows are the same as if nothing had stopped. Several ranks share the
    work; only the first has `rows`, for the others it is None. Raises InputError for an embedding that is not finite.
    """
    keys, order = None, torch.full((len(images),), -1)
    if isinstance(rows, KeyedRows):
        keys = image_keys(images)
        order = torch.from_numpy(_of_whole_batches(rows, rows.find(keys), batch_size))
    ranks.copy_first([order])
    order = order.numpy()
    done = int((order >= 0).sum())
    if done:
        say(f"{done} of {len(images)} images are embedded already")
    left = np.flatnonzero(order < 0)
    if not len(left):
        return order
    rest = images if len(left) == len(images) else images.take(left)
    for indices, batch in embed_batches(model, open_images(rest), device):
        chosen = left[indices.numpy()]
        _refuse_not_finite(batch, images.paths[chosen])
        order[chosen] = np.arange(len(rows), len(rows) + len(batch))
        rows.append(batch.numpy(), *(() if keys is None else (keys[chosen],)))
    return order


def _of_whole_batches(rows, order, batch_size):
    """The rows (N,) that images have; where these are the first images, a batch that is not whole is dropped."""
    done = int((order >= 0).sum())
    if done == len(rows) < len(order) and np.array_equal(order[:done], np.arange(done)):
        whole = done - done % batch_size
        rows.cut(whole)
        order[whole:] = -1
    return order


def _refuse_not_finite(batch, paths):
    broken = torch.nonzero(~torch.isfinite(batch).all(1)).flatten().tolist()
    if broken:
        raise InputError(
            f"the embedding of {str(paths[broken[0]])!r} is NaN or infinite: look at the weights, or take "
            "--precision=fp32"
        )


def save_embeddings(path, images, embeddings, card):
    """Write embeddings, a tensor, a RowFile or Ordered, with their list's columns and the model's fingerprint as .npz.

    Where nobody knows labels there is no such column.
    """
    columns = {name: getattr(images, name) for name in COLUMNS if getattr(images, name) is not None}
    names = {kind: getattr(images.names, kind) for kind in ("label", "category")}
    columns |= {"names": np.array(json.dumps(names))} if any(names.values()) else {}
    embeddings = embeddings.numpy() if torch.is_tensor(embeddings) else embeddings
    facts = {"model": np.array(json.dumps(card)), "format": np.array(FORMAT)}
    write_npz(path, {**columns, "embeddings": embeddings, **facts})


def save_json(path, images, rows):
    """Write a RowFile or Ordered as {path: embedding}, `item_name` being the key; one that comes twice stands once."""
    hashes = np.fromiter((hash(path) for path in images.paths), np.int64, len(images))
    comes_twice = len(np.unique(hashes)) < len(images)  # else there is no need to remember names
    done, written = 0, set()
    with replacing(path) as file:
        before = b"{"
        for block in rows.blocks(memory=2**18):
            for place, row in enumerate(block.tolist(), start=done):
                name = item_name(images.paths[place], images.box_of(place))
                if name in written:
                    continue
                if comes_twice:
                    written.add(name)
                file.write(before + f"{json.dumps(name)}: {json.dumps(row)}".encode())
                before = b", "
            done += len(block)
        file.write(b"}")


def load_embeddings(path):
    """(ImageList, embeddings (N, D), fingerprint or None) of an .npz with embeddings and labels, ours or another's.

    What it does not hold is filled in: every row a query and in the gallery, numbers for paths. Raises InputError for
    missing columns, mistyped ones, lengths that differ, and unknown labels.
    """
    arrays = read_npz(path, ("embeddings",))
    if "labels" not in arrays:
        hint = meant_by("labels", [name for name in arrays if name not in COLUMNS])
        raise InputError(f"{str(path)!r} has no labels, so there is nothing to count as right or wrong.{hint}")
    notes = _unused(path, arrays)
    embeddings, labels = arrays["embeddings"], arrays["labels"]
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(
            f"{str(path)!r}: the embeddings are {shape}; evaluation needs floating-point (N, D), not empty"
        )
    everyone = np.ones(len(embeddings), dtype=bool)
    defaults = {
        "paths": np.array([f"{i}" for i in range(len(embeddings))]),
        "is_query": everyone,
        "is_gallery": everyone,
    }
    columns = {**defaults, **{name: arrays[name] for name in COLUMNS if name in arrays}}
    for name, column in columns.items():
        if column.shape != (len(embeddings), 4)[: 2 if name == "boxes" else 1]:
            shape = len(column) if column.ndim == 1 else column.shape
            raise InputError(f"{str(path)!r}: {shape} {name} for {len(embeddings)} embeddings")
    for name, column in columns.items():
        if column.dtype.kind not in COLUMNS[name]:
            raise InputError(f"{str(path)!r}: the {name} are {column.dtype}; their kind has to be {COLUMNS[name]!r}")
    unknown = 0 if "format" in arrays or labels.dtype.kind not in "iu" else int((labels == UNKNOWN).sum())
    if unknown == len(labels):
        raise InputError(f"{str(path)!r}: the labels are all {UNKNOWN}, that is, unknown; evaluation needs others")
    if unknown:
        notes.append(f"{path}: {unknown} rows have the label {UNKNOWN}, which counts as a label like any other")
    for flag in ("is_query", "is_gallery"):
        if not columns[flag].any():
            raise InputError(f"{str(path)!r}: {flag} is False everywhere: there is nobody to ask, or nothing to find")
    images = ImageList(str(path), **columns, notes=tuple(notes), names=_read_names(arrays, path))
    images, embeddings = _each_once(images, embeddings)
    return images, torch.from_numpy(embeddings), _read_card(arrays, path)


def _each_once(images, embeddings):
    """An ImageList and its embeddings without rows that are another one's in path, box and every number.

    Such a row, as of an image that is once a query and once in the gallery, would be found as a right answer.
    """
    first = find_repeats(images)
    again = np.flatnonzero(first != np.arange(len(images)))
    others = again[(embeddings[again] != embeddings[first[again]]).any(1)]
    first[others] = others
    faults = Faults()
    folded = fold_repeats(images, faults, first)
    if faults:
        raise InputError("\n".join(faults.told(images.source)))
    return folded, embeddings[np.unique(first)]


def _unused(path, arrays):
    """Sentences on arrays of an .npz that nothing reads. Raises InputError for one that seems a mistyped column."""
    mistyped = []
    unused = tell_unknown(list(arrays), ["embeddings", "labels"], [*COLUMNS, *OF_OURS], mistyped.append)
    if mistyped:
        raise InputError(f"{str(path)!r}: {mistyped[0]}")
    return [f"{path}: arrays that are not used: {', '.join(map(repr, unused))}"] if unused else []


def _read_names(arrays, path):
    """The names of labels and categories among the arrays of an .npz."""
    if "names" not in arrays:
        return NO_NAMES
    try:
        kinds = json.loads(str(arrays["names"]))
        return Names(*({str(key): str(name) for key, name in kinds[kind].items()} for kind in ("label", "category")))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{str(path)!r}: names are not those of labels and categories as JSON") from None


def _read_card(arrays, path):
    """The model's fingerprint among the arrays of an .npz; None where there is none."""
    try:
        card = json.loads(str(arrays["model"])) if "model" in arrays else None
    except ValueError:
        card = "no JSON"
    if not isinstance(card, dict | None):
        raise InputError(
            f"{str(path)!r}: model is {str(card)[:40]!r}, expected what tells of a model as JSON, or nothing"
        )
    return card
