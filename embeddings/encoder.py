"""A network that embeds images, with all that decides what it makes of one."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from core.device import choose_precision
from core.types import Positive
from data.image.transforms import TestTransform
from data.loader import BatchLoader, open_test_loader
from data.records import Records
from embeddings.fingerprint import fingerprint
from embeddings.known_network import known_fingerprint, opened_from
from embeddings.runtime import AUTO, Job, Made, Way, fastest_model
from models import (
    ModelSettings,
    TowerSettings,
    TwoTowers,
    fast_model,
    open_model,
    read_towers,
    with_text_tower,
)
from models.export.onnx import OnnxRuntime

# Figures are those of the very network unless asked otherwise.
EXACT = Way("fp32", "torch")


@dataclass(frozen=True)
class Encoder:
    """A network on its device, and how images come to it.

    open_network: makes `network`, when it is first asked for. settings: of the model, or of its towers.
    fingerprint: plain JSON that tells models apart, whatever the precision and runtime. num_workers: processes that
    load images, or "auto". origin: what the network is `opened_from`, None where that is not told.
    """

    open_network: Callable[[], nn.Module]
    settings: ModelSettings | TowerSettings
    device: torch.device
    fingerprint: dict
    precision: str
    runtime: str
    num_workers: int | str
    batch_size: int
    origin: str | None = None

    @cached_property
    def network(self) -> nn.Module:
        """Takes uint8 images (B, 3, H, W), or what else its backbone does, to embeddings (B, D), and has
        `embedding_size`."""
        return self.open_network()

    @property
    def facts(self) -> dict:
        """Plain JSON on all that decides an embedding beside the image and the versions of packages."""
        return {**self.fingerprint, "precision": self.precision, "runtime": self.runtime}

    @property
    def onnx(self) -> bytes | None:
        """The ONNX file's bytes by which --runtime=onnx embeds images; None for what else embeds, and for towers."""
        if isinstance(self.network, OnnxRuntime):
            return self.network.content
        return None

    def open_loader(self, records: Records, on_bad: Callable[[int, str], None] | None = None) -> BatchLoader:
        """The rows in order; several ranks have the batches in turn.

        on_bad(index, sentence): None, or called for images that cannot be read, which are left out of their batches.
        """
        return open_test_loader(records, self.settings, self.batch_size, self.num_workers, self.device, on_bad)


def open_encoder(
    settings: ModelSettings,
    device: torch.device,
    precision: str,
    runtime: str,
    num_workers: int | str,
    keeps_exact: bool = False,
    modalities: Collection[str] = (),
    job: Job | None = None,
    known_in: Path | None = None,
    *,
    batch_size: Positive,
) -> Encoder:
    """The Encoder of the network that `settings` name, or of the towers in their folder; where there are texts among
    the `modalities` that it is to embed, of a network for images and the one for texts that shares its space.

    In a network's place comes the fastest that precision and runtime allow.

    Options:
        batch_size: images in a batch

    keeps_exact: in fp32 on torch take the network itself, to the bit. job: what it is to embed, by which a runtime
    `auto` is found; None, and that is torch, as it is for two towers. known_in: a folder that may tell what the network
    is (embeddings/known_network.py); it is built when it is asked for then. Raises InputError as open_model does, where
    a package is missing, and for a size that cannot be, before anything is written.
    """
    several = read_towers(settings.pretrained_model)
    beside = None
    if several is None and "text" in modalities:
        several = beside = with_text_tower(settings)
    if several is None:
        way, origin, identity = Way(precision, runtime), None, None
        if known_in is not None and runtime == "torch":
            origin = opened_from(settings)
            identity = known_fingerprint(known_in, origin)
        if identity is not None:

            def open_network() -> nn.Module:
                return _open_network(settings, device, way, keeps_exact)[0].network

            return Encoder(open_network, settings, device, identity, *way, num_workers, batch_size, origin)
        made, identity = _open_network(settings, device, way, keeps_exact, job)
        return Encoder(lambda: made.network, settings, device, identity, *made.way, num_workers, batch_size, origin)
    if runtime == AUTO:
        precision, runtime = choose_precision(precision, device), "torch"
    way = Way(precision, runtime)
    networks = {}
    identities = {}
    for modality, tower in several.towers.items():
        made, identities[modality] = _open_network(tower, device, way, keeps_exact)
        networks[modality] = made.network
    network = TwoTowers(networks)
    identity = {"towers": identities}
    # What its images became, and will become, without texts is of the same model.
    if beside is not None:
        identity = {**identities["image"], "texts": identities["text"]}
    return Encoder(lambda: network, several, device, identity, *way, num_workers, batch_size)


def _open_network(
    settings: ModelSettings, device: torch.device, way: Way, keeps_exact: bool, job: Job | None = None
) -> tuple[Made, dict]:
    """A network on its device, and its fingerprint. keeps_exact, job: as for `open_encoder`."""
    model = open_model(settings)
    if model.modality == "image":
        # Refuses a crop beyond the picture.
        TestTransform.of(settings)
    model = model.to(device)
    identity = fingerprint(model, settings)
    if way.runtime == AUTO:
        made = fastest_model(model, settings, device, way.precision, job)
        if keeps_exact and made.way == EXACT:
            made = Made(model, EXACT)
    elif keeps_exact and way == EXACT:
        made = Made(model, EXACT)
    else:
        made = Made(fast_model(model, *way, settings.image_shape), way)
    return made, identity
