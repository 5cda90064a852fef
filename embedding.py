"""Embeddings of a list: made by a model, kept with what they belong to, and used again only for the very same."""

import contextlib
import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from engine import ranks
from engine.embed import embed, embed_batches, embed_own
from engine.run import PACKAGES, say
from engine.shard import open_shard
from errors import InputError
from reader import ImageList
from storage import RowFile, read_npz, replacing, write_npz

TEXT, INTEGERS, FLAGS, NUMBERS = "U", "iu", "b", "f"  # numpy's kinds
COLUMNS = {"paths": TEXT, "labels": INTEGERS, "is_query": FLAGS, "is_gallery": FLAGS}
COLUMNS |= {"categories": TEXT + INTEGERS, "sequences": TEXT + INTEGERS, "boxes": NUMBERS}


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
    facts = {**made, "device": device.type, "images": _contents(images)}
    facts |= {name: version(name) for name in (*PACKAGES, made["runtime"])}
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
    """SHA-256 over the contents of all images of a list and their boxes, in order."""
    digest = hashlib.sha256()
    for path in images.paths.tolist():
        try:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        except OSError as error:
            raise InputError(f"cannot read image {path!r}: {error.strerror}") from None
    digest.update(b"" if images.boxes is None else images.boxes.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def rows_on_disk(path, made, width, go_on=False):
    """A RowFile in the file `path`, behind a line of JSON that tells what its rows are; removed when all went well.

    made: plain JSON on all that decides the rows. go_on: keep those that a stopped process left. Raises InputError
    where those are made of something else, or are there unasked.
    """
    path, text = Path(path), json.dumps(made, sort_keys=True).encode()
    line = text + b" " * (-(len(text) + 1) % 64) + b"\n"  # the numbers behind it stand as arrays in memory do
    try:
        file = open(path, "r+b" if path.exists() else "w+b", buffering=0)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    with file:
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
        yield rows
    path.unlink()


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
    """Append to a RowFile the embeddings of those of `images` that it lacks, batch by batch.

    open_images: function from ImageList to loader, in batches of `batch_size`. They begin where they would have begun,
    so that the rows are the same as if nothing had stopped. Several ranks share the work; only the first has `rows`,
    for the others it is None.
    """
    if ranks.first():
        rows.cut(len(rows) - len(rows) % batch_size)
    done = ranks.first_says(len(rows) if ranks.first() else 0)
    if done:
        say(f"{done} of {len(images)} images are embedded already")
    rest = images.take(slice(done, None))
    for _, batch in embed_batches(model, open_images(rest), device) if len(rest) else ():
        rows.append(batch.numpy())


def list_digest(images):
    """SHA-256 over the paths and boxes of a list, in order, hexadecimal."""
    digest = hashlib.sha256()
    for path in images.paths.tolist():
        digest.update(os.fsencode(path) + b"\0")
    digest.update(b"" if images.boxes is None else images.boxes.tobytes())
    return digest.hexdigest()


def save_embeddings(path, images, embeddings, card):
    """Write embeddings, a tensor or a RowFile, with the columns of their list and the model's fingerprint as .npz."""
    columns = {name: getattr(images, name) for name in COLUMNS if getattr(images, name) is not None}
    embeddings = embeddings.numpy() if torch.is_tensor(embeddings) else embeddings
    write_npz(path, {**columns, "embeddings": embeddings, "model": np.array(json.dumps(card))})


def save_json(path, images, rows):
    """Write a RowFile as {path: embedding}; a path that comes twice is written twice, and readers take the last."""
    done = 0
    with replacing(path) as file:
        for block in rows.blocks(memory=2**18):
            names = images.paths[done : done + len(block)].tolist()
            lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in zip(names, block.tolist()))
            file.write((("{", ", ")[done > 0] + ", ".join(lines)).encode())
            done += len(block)
        file.write(b"}")


def load_embeddings(path):
    """(ImageList, embeddings (N, D), fingerprint or None) of an .npz with embeddings and labels, ours or another's.

    What it does not hold is filled in: every row a query and in the gallery, numbers for paths. Raises InputError for
    missing columns, lengths that differ, and unknown labels.
    """
    arrays = read_npz(path, ("embeddings", "labels"))
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
    if labels.dtype.kind not in "iu" or (labels == -1).all():
        kind = f"are {labels.dtype}" if labels.dtype.kind not in "iu" else "are all -1, that is, unknown"
        raise InputError(f"{str(path)!r}: the labels {kind}; evaluation needs integers that tell images apart")
    for name, column in columns.items():
        if column.dtype.kind not in COLUMNS[name]:
            raise InputError(f"{str(path)!r}: the {name} are {column.dtype}; their kind has to be {COLUMNS[name]!r}")
    return ImageList(str(path), **columns), torch.from_numpy(embeddings), _read_card(arrays, path)


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
