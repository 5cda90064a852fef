"""Which runtime and precision embed a job the fastest on this CPU: measured on its first images (--runtime=auto)."""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import distributed
from core.console import log
from core.device import choose_precision, has_bfloat16
from core.errors import InputError, first_line
from core.files import read_json, write_json_once
from data.loader import open_test_loader
from data.records import Records
from embeddings.rows import read_made
from models import Embedder, ModelSettings, fast_model

AUTO = "auto"
SAMPLE = 8  # images that every way is measured on
CALLS = 3  # of every network on them: one that makes what is made once, two that are timed
BUILDING = 10.0  # seconds that the other ways take until they are there, about
WORTH = 10  # a job is measured for that takes so many times as long as the measuring
GAIN = 1.1  # what is not faster by so much is not worth other roundings than torch's in fp32
# Another precision or runtime takes 1e-4 of a cosine at the most (retrieval/index/index.py).
LEAST_COSINE = 1 - 1e-4
RUNTIME_FILE = "runtime.json"


class Way(NamedTuple):
    """How a network embeds; `fast_model` makes it."""

    precision: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


WAYS = (
    Way("fp32", "torch"),
    Way("bf16", "torch"),
    Way("fp32", "onnx"),
    Way("fp32", "openvino"),
    Way("bf16", "openvino"),
)


class Job(NamedTuple):
    """What is to be embedded.

    records: its images, or the first of them, None where nobody knows them; count: how many there are. made_by: how a
    stopped process has embedded some, so that the others become what they would have been.
    """

    records: Records | None
    count: int
    made_by: Way | None = None


class Made(NamedTuple):
    """A network as it embeds, and the way that it is."""

    network: nn.Module
    way: Way


def ways_of(precision: str, device: torch.device) -> list[Way]:
    """What --runtime=auto chooses from, the plain way first: torch in what --precision says. None but that on an
    accelerator; where that is `auto`, bf16 only on a CPU with instructions for it, since torch emulates it on others.
    """
    plain = Way(choose_precision(precision, device), "torch")
    if device.type != "cpu":
        return [plain]
    precisions = {plain.precision}
    if precision == AUTO:
        precisions.add("fp32")
        if has_bfloat16():
            precisions.add("bf16")
    return [plain, *(way for way in WAYS if way.precision in precisions and way != plain)]


def fastest_model(
    model: Embedder, settings: ModelSettings, device: torch.device, precision: str, job: Job | None
) -> Made:
    """The network that embeds a job the fastest, and says so.

    Plain torch, and nothing is imported nor measured, for a job that is unknown or short, for other modalities than
    images, and on accelerators. Several ranks do as the first one finds. Raises InputError as `fast_model`, for what a
    stopped process did.
    """
    ways = ways_of(precision, device)
    shape = settings.image_shape
    if job is not None and job.made_by in ways:
        log(f"--runtime=auto: {job.made_by}, as what is embedded already")
        return Made(fast_model(model, *job.made_by, shape), job.made_by)
    if job is None or job.records is None or len(ways) == 1 or model.modality != "image":
        return Made(fast_model(model, *ways[0], shape), ways[0])

    made = None
    if distributed.is_first():
        images = _first_images(settings, job.records, device)
        made = Made(fast_model(model, *ways[0], shape), ways[0])
        if images is not None:
            made = _measured(model, shape, images, made, ways[1:], job.count)
    chosen = ways[distributed.broadcast_value(ways.index(made.way) if made else 0)]
    return made or Made(fast_model(model, *chosen, shape), chosen)


def _first_images(settings: ModelSettings, records: Records, device: torch.device) -> torch.Tensor | None:
    """Some of the images as they come in batches, (n, 3, H, W) uint8; None where none of them can be read."""
    few = records.take(slice(SAMPLE))
    loader = open_test_loader(few, settings, SAMPLE, 0, device, on_bad=lambda index, sentence: None)
    for images, _, _ in loader:
        return images
    return None


@torch.inference_mode()
def _measured(
    model: Embedder,
    shape: tuple[int, int, int],
    images: torch.Tensor,
    plain: Made,
    others: list[Way],
    count: int,
) -> Made:
    """The fastest of the plain way and others on these images, if a job of `count` is long enough to find it out."""
    began = time.perf_counter()
    expected = model.eval()(images)
    least = plain_seconds = seconds_of(plain.network, images)
    whole = count / len(images) * plain_seconds
    if whole < WORTH * (BUILDING + CALLS * len(others) * plain_seconds):
        return plain

    speeds = [f"{plain.way} {len(images) / plain_seconds:.1f}"]
    left_out = []
    best = plain
    for way in others:
        try:
            network = fast_model(model, *way, shape)
            found = network(images)
            seconds = seconds_of(network, images)
        # A package that is missing, or one that cannot take this network: it raises whatever it likes.
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else first_line(error)
            left_out.append(f"{way} ({reason})")
            continue
        if cosine_similarity(found.double(), expected.double()).min() < LEAST_COSINE:
            left_out.append(f"{way} (embeddings that differ)")
            continue
        speeds.append(f"{way} {len(images) / seconds:.1f}")
        if seconds < least and GAIN * seconds < plain_seconds:
            best, least = Made(network, way), seconds
    spent = time.perf_counter() - began
    text = f"--runtime=auto: {best.way}; images a second: {', '.join(speeds)}; found in {spent:.0f} s"
    if left_out:
        text += f"; left out: {', '.join(left_out)}"
    log(text)
    return best


def seconds_of(network: nn.Module, images: torch.Tensor) -> float:
    """That a batch takes, the least of two behind a first one."""
    network(images)
    times = []
    for _ in range(CALLS - 1):
        began = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - began)
    return min(times)


def way_of_rows(file: str | Path | None) -> Way | None:
    """How a stopped process has embedded what stands in a file of rows; None where there is none."""
    if file is None:
        return None
    return _way_in(read_made(file))


def way_of_folder(folder: Path) -> Way | None:
    """How shards in this folder are embedded; None where nobody has said it yet."""
    try:
        return _way_in(read_json(folder / RUNTIME_FILE))
    except FileNotFoundError:
        return None


def keep_way(folder: Path, way: Way) -> Way:
    """Say in a folder how its shards are embedded; returns what stands there, where another process was faster."""
    if write_json_once(folder / RUNTIME_FILE, way._asdict()):
        return way
    return way_of_folder(folder) or way


def _way_in(facts: object) -> Way | None:
    if not isinstance(facts, dict) or not {*Way._fields} <= facts.keys():
        return None
    return Way(facts["precision"], facts["runtime"])
