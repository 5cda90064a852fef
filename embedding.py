"""Embeddings of a list: made by a model, kept with what they belong to, and used again only for the very same."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from engine.embed import embed
from engine.run import PACKAGES, say, versions
from errors import InputError
from reader import ImageList
from storage import read_npz, write_npz

COLUMNS = ("paths", "labels", "is_query", "is_gallery", "categories", "sequences", "boxes")


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


def embed_list(images, loader, model, flags, device, precision, cache=None):
    """Embeddings (N, D) float32 of an ImageList, which `loader` loads in the geometry of `flags`, on the CPU.

    cache: a file to take them from if it holds those of the same weights, transform, precision, packages and image
    contents, and to write them to if not; None for neither.
    """
    key = None
    if cache is not None:
        facts = {**fingerprint(model, flags), "precision": precision, "device": device.type}
        facts |= {"images": _contents(images), **{name: versions()[name] for name in PACKAGES}}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        kept = _read_cache(cache)
        if str(kept.get("key")) == key:
            say(f"embeddings taken from {cache} (same weights, transform and images)")
            return torch.from_numpy(kept["embeddings"])
    embeddings = embed(model, loader, device, precision)
    if cache is not None:
        write_npz(cache, {"key": np.array(key), "embeddings": embeddings.numpy()})
    return embeddings


def _read_cache(file):
    """What a cache holds; nothing for one that is not there or cannot be read."""
    try:
        return read_npz(file, ("key", "embeddings"))
    except InputError:
        return {}


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


def save_embeddings(path, images, embeddings, card):
    """Write embeddings with the columns of their list and the fingerprint of their model as .npz."""
    columns = {name: getattr(images, name) for name in COLUMNS if getattr(images, name) is not None}
    write_npz(path, {**columns, "embeddings": embeddings.numpy(), "model": np.array(json.dumps(card))})


def load_embeddings(path):
    """(ImageList, embeddings (N, D), fingerprint or None) of an .npz with embeddings and labels, ours or another's.

    What it does not hold is filled in: every row a query and in the gallery, numbers for paths. Raises InputError for
    missing columns, lengths that differ, and unknown labels.
    """
    arrays = read_npz(path, ("embeddings", "labels"))
    embeddings, labels = arrays["embeddings"], arrays["labels"]
    everyone = np.ones(len(embeddings), dtype=bool)
    defaults = {
        "paths": np.array([f"{i}" for i in range(len(embeddings))]),
        "is_query": everyone,
        "is_gallery": everyone,
    }
    columns = {**defaults, **{name: arrays[name] for name in COLUMNS if name in arrays}}
    for name, column in columns.items():
        if len(column) != len(embeddings):
            raise InputError(f"{str(path)!r}: {len(column)} {name} for {len(embeddings)} embeddings")
    if labels.dtype.kind not in "iu" or (labels == -1).all():
        kind = f"are {labels.dtype}" if labels.dtype.kind not in "iu" else "are all -1, that is, unknown"
        raise InputError(f"{str(path)!r}: the labels {kind}; evaluation needs integers that tell images apart")
    card = json.loads(str(arrays["model"])) if "model" in arrays else None
    return ImageList(str(path), **columns), torch.from_numpy(embeddings), card
