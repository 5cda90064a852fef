"""Shards embedded by workers of Ray Data, on this machine or a cluster, in the place of ranks (embeddings/shards.py).

A row of the data set is a shard, each in a block of its own, so that a shard whose worker dies goes to another one.
What a worker writes are the same files and marks as a rank's: who starts again, by Ray or not, leaves out what is done.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.device import choose_device, open_device
from core.errors import InputError, first_line
from core.packages import needed
from core.sources import ROOT
from core.types import Count
from embeddings.encoder import Encoder, open_encoder
from embeddings.shards import Embedded, embed_shards
from models import ModelSettings

ADDRESS = "RAY_ADDRESS"  # names a cluster; without it Ray starts one on this machine


@dataclass(frozen=True)
class EncoderFlags:
    """The flags that a worker opens its network by, {keyword: value} of the sections of these names."""

    model: dict[str, object]
    device: dict[str, object]
    encoder: dict[str, object]
    num_workers: int | str

    def open(self) -> Encoder:
        """The network. Raises InputError as `open_encoder`."""
        device, precision = open_device(**self.device)
        settings = ModelSettings(**self.model)
        return open_encoder(settings, device, precision, self.device["runtime"], self.num_workers, **self.encoder)


class ShardEmbedder:
    """What one worker is: a network that is opened once, and embeds a shard a row.

    folder: where files and marks go, as the worker's machine sees it.
    """

    def __init__(self, flags: EncoderFlags, folder: str, skips_unreadable: bool):
        self.encoder = flags.open()
        self.folder = Path(folder)
        self.skips_unreadable = skips_unreadable

    def __call__(self, row: dict[str, str]) -> dict[str, object]:
        shard = Path(row["shard"])
        try:
            done = embed_shards([shard], self.folder, self.encoder, 0, 1, self.skips_unreadable)
        except InputError as error:
            # As a value: Ray would try again, and tell of it in pages.
            return {"shards": 0, "before": 0, "images": 0, "wrong": str(error)}
        return {**done._asdict(), "wrong": ""}


def embed_by_ray(
    shards: Sequence[Path], folder: Path, flags: EncoderFlags, skips_unreadable: bool, *, ray_workers: Count = 0
) -> Embedded:
    """Embed shards into `folder`; every machine of a cluster has to see both, and this program, under the same paths.

    Options:
        ray_workers: of --shards: so many workers of Ray Data in the place of ranks, on the cluster that RAY_ADDRESS
            names, else on this machine; 0: ranks

    Raises InputError where Ray is not installed or does not start, for a network that cannot be opened, and for shards
    that are damaged, when all others are done.
    """
    ray = needed("ray", "--ray_workers", "ray")
    data = needed("ray.data", "--ray_workers", "ray")
    # What is wrong with the flags is one sentence here, and pages from a worker.
    flags.open()
    gpus = int(choose_device(flags.device["use_gpu"]).type == "cuda")
    _start(ray, ray_workers)
    try:
        data.DataContext.get_current().enable_progress_bars = False
        rows = data.from_items([{"shard": os.path.abspath(shard)} for shard in shards], override_num_blocks=len(shards))
        words = (flags, os.path.abspath(folder), skips_unreadable)
        embedded = rows.map(
            ShardEmbedder, fn_constructor_args=words, concurrency=ray_workers, num_cpus=1, num_gpus=gpus
        )
        done = embedded.take_all()
    finally:
        ray.shutdown()
    wrong = [row["wrong"] for row in done if row["wrong"]]
    if wrong:
        raise InputError("\n".join(wrong))
    return Embedded(*(sum(row[name] for row in done) for name in Embedded._fields))


def _start(ray, workers: int) -> None:
    """Meet the cluster that the environment names, or start one here. Raises InputError where that fails."""
    # Workers find these modules, wherever the program was started.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    options = {"log_to_driver": False, "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}}
    if not os.environ.get(ADDRESS):
        # One more than workers, since Ray has work of its own.
        options |= {"include_dashboard": False, "num_cpus": workers + 1}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise InputError(f"Ray does not start: {first_line(error)}") from None
