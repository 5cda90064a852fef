"""Shards embedded one by one: a file of embeddings and a done-mark each, by as many processes as there are.

Rank r of n takes shards r, r + n, ... and meets no other rank, so that any of them may be killed, started again, or
come late. Embeddings take their name when all of a shard are there, and the mark comes after them: a shard is whole or
not done, and what is done is left out by who starts again.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.console import log
from core.errors import InputError
from core.files import make_folder, read_json, replace_json
from core.text import counted, plural
from data.shards import unpack
from data.soundness import refuse_broken_images
from embeddings.encoder import Encoder
from embeddings.runtime import Job, Way, keep_way, way_of_folder
from embeddings.streaming import embed_stream
from embeddings.table import SUFFIXES

DONE = ".done"


class Embedded(NamedTuple):
    """What one rank did: shards embedded now, and before, and how many images now."""

    shards: int
    before: int
    images: int

    def as_text(self, folder: Path) -> str:
        """What was done, in words."""
        shards, images = plural(self.shards, "shard"), plural(self.images, "image")
        text = f"{self.shards} {shards} embedded, {self.images} {images}, in {folder}"
        if self.before:
            text += f"; {counted(self.before, 'shard')} {plural(self.before, 'was', 'were')} done already"
        return text


def open_shard_folder(output: Sequence[str] | None) -> Path:
    """The folder for a file of embeddings a shard, made. Raises InputError for what is no folder."""
    if not output or len(output) != 1 or Path(output[0]).is_file() or output[0].endswith(SUFFIXES):
        raise InputError("--shards needs --output=FOLDER, in which each shard has a file")
    make_folder(Path(output[0]))
    return Path(output[0])


def open_shard_encoder(open_encoder: Callable[[Job], Encoder], shards: Sequence[Path], folder: Path) -> Encoder:
    """The Encoder of shards whose runtime is to be found: what the folder says, or the fastest, which it says then.

    So all shards of a folder are embedded one way, whoever is killed and starts again. shards: those of this rank; the
    first stands for all. Raises InputError as `open_encoder`, and for a shard that is damaged.
    """
    kept = way_of_folder(folder)
    if kept is not None or not shards:
        return open_encoder(Job(None, 0, kept))
    with tempfile.TemporaryDirectory(prefix="shard-") as room:
        records, names = unpack(shards[0], Path(room))
        encoder = open_encoder(Job(records, len(names) * len(shards)))
    found = Way(encoder.precision, encoder.runtime)
    kept = keep_way(folder, found)
    if kept == found:
        return encoder
    return open_encoder(Job(None, 0, kept))


def embed_shards(
    shards: Sequence[Path], folder: Path, encoder: Encoder, rank: int, world_size: int, skips_unreadable: bool = False
) -> Embedded:
    """Embed the shards of one rank into `folder`: SHARD.npz, then SHARD.done, plain JSON on what was embedded by what.

    Those that are done are left out. Paths in an .npz are SHARD/NAME. skips_unreadable: leave out images that cannot be
    read; InputError for those otherwise, for a shard that is damaged, and for what another model has done.
    """
    count = before = images = 0
    for shard in shards[rank::world_size]:
        mark = folder / f"{shard.name}{DONE}"
        size = shard.stat().st_size
        if _is_done(mark, folder / f"{shard.name}.npz", size, encoder):
            before += 1
            continue
        done = _embed_shard(shard, folder / f"{shard.name}.npz", encoder, skips_unreadable)
        replace_json(mark, {"shard": shard.name, "bytes": size, "images": done, "model": encoder.fingerprint})
        log(f"{shard.name}: {counted(done, 'image')} embedded")
        count += 1
        images += done
    return Embedded(count, before, images)


def _is_done(mark: Path, embeddings: Path, size: int, encoder: Encoder) -> bool:
    """Whether a shard of this size was embedded by this model. Raises InputError where another model did."""
    try:
        facts = read_json(mark)
    except FileNotFoundError:
        return False
    if not isinstance(facts, dict) or facts.get("model") != encoder.fingerprint:
        raise InputError(f"{str(mark)!r}: another model has embedded this shard; give another --output, or remove it")
    return facts.get("bytes") == size and (embeddings.exists() or facts.get("images") == 0)


def _embed_shard(shard: Path, path: Path, encoder: Encoder, skips_unreadable: bool) -> int:
    """Write the embeddings of a shard, and return of how many images."""
    with tempfile.TemporaryDirectory(prefix="shard-") as room:
        records, names = unpack(shard, Path(room))
        if records is None:
            log(f"note: no image in {shard.name}")
            return 0
        name_of = dict(zip(records.paths.tolist(), names, strict=True))
        try:
            if not skips_unreadable:
                refuse_broken_images([records])
            with embed_stream(records, encoder, folder=room, skips_unreadable=skips_unreadable) as table:
                kept = np.array([name_of[path] for path in table.records.paths.tolist()])
                dataclasses.replace(table, records=dataclasses.replace(table.records, paths=kept)).save(path)
                return len(table)
        except InputError as error:
            # Nobody knows an image by the name that it was unpacked under.
            text = str(error)
            for unpacked, name in name_of.items():
                text = text.replace(unpacked, name)
            raise InputError(text) from None
