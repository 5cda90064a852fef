"""Embeddings of a list: made by a model, kept with what they belong to, and used again only for the very same."""

import hashlib
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import distributed
from core.console import log
from core.errors import InputError
from core.files import read_npz, write_npz
from core.versions import package_versions
from embeddings.embed import embed, embed_own
from embeddings.shard import open_shard


def embed_list(images, loader, model, device, made, cache=None):
    """Embeddings (N, D) float32 of an ImageList, which `loader` loads, on the CPU.

    made: plain JSON on all else that decides them: the model's fingerprint, precision, runtime. cache: a file to take
    them from if it holds those of the same packages, image contents and `made`, and to write them to if not; None for
    neither. Several ranks share the work, and the first returns all of it, the others None.
    """
    kept, key = _look_up(cache, images, device, made) if distributed.is_first() else (None, None)
    if distributed.broadcast_value(kept is not None):
        return kept
    embeddings = embed(model, loader, device)
    if key is not None:
        write_npz(cache, {"key": np.array(key), "embeddings": embeddings.numpy()})
    return embeddings


def embed_shard(images, loader, model, device, made, cache=None):
    """As embed_list, but each rank keeps those that it makes: its Shard. Each has a cache of its own beside `cache`."""
    rows = loader.batch_sampler.rows()
    if cache is not None:
        cache = cache.with_name(f"{cache.stem}_{distributed.rank()}_of_{distributed.world_size()}{cache.suffix}")
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
    log(f"embeddings taken from {cache} (same weights, transform and images)")
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
        log(
            f"note: {copies} of {len(images)} images are byte for byte another image of their label, which they find "
            "as a right answer; python reader.py check names them"
        )
