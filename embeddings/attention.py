"""Where a network looks in the images of pairs that belong together: a query and its best hit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from core.errors import InputError
from core.items import modality_of
from core.slices import slices_of
from data.image.files import load
from data.image.transforms import TestTransform
from data.records import Records
from embeddings.encoder import Encoder
from embeddings.table import EmbeddingTable
from models import Embedder, ModelSettings, TwoTowers
from models.attention import AttentionMaps


@dataclass(frozen=True)
class Look:
    """Where a network looked in one image.

    map: (h, w) float32 from 0 on, of the part of the image that the network saw. seen: (left, top, right, bottom) of
    that part, in pixels of the whole image.
    """

    map: np.ndarray
    seen: tuple[float, float, float, float]


class Attention:
    """Looks of the network of an Encoder.

    Raises InputError, before any work, where there is no network that can be looked into.
    """

    def __init__(self, encoder: Encoder) -> None:
        model, settings = _network_for_images(encoder)
        self.maps = AttentionMaps(model, settings.image_shape)
        self.transform = TestTransform.of(settings)
        self.batch_size = encoder.batch_size

    @property
    def method(self) -> str:
        """What the looks are, in words."""
        return self.maps.method

    def of_pairs(
        self, table: EmbeddingTable, pairs: Sequence[tuple[int, int]]
    ) -> list[tuple[Look | None, Look | None]]:
        """Looks at both rows of each pair, in what makes them alike; None for a row that is no image.

        Images are read again, a batch at a time. Raises InputError for one that cannot be read.
        """
        asked = []
        for left, right in pairs:
            asked += [(left, right), (right, left)]
        is_image = [modality_of(table.records.paths[row]) == "image" for row, _ in asked]
        looks = self._looks(table, [pair for pair, has_look in zip(asked, is_image) if has_look])
        each = [next(looks) if has_look else None for has_look in is_image]
        return list(zip(each[::2], each[1::2]))

    def _looks(self, table: EmbeddingTable, asked: Sequence[tuple[int, int]]) -> Iterable[Look]:
        """The look at the first row of each pair, with the second one's embedding as target."""
        for chosen in slices_of(len(asked), self.batch_size):
            rows = [row for row, _ in asked[chosen]]
            targets = table.matrix[[target for _, target in asked[chosen]]]
            crops, seen = self._crops(table.records, rows)
            for heat, part in zip(self.maps.of(crops, targets).numpy(), seen):
                yield Look(heat, part)

    def _crops(self, records: Records, rows: Sequence[int]) -> tuple[torch.Tensor, list[tuple[float, ...]]]:
        """What the network takes of rows, (B, 3, height, width) uint8, and which parts of the images that is."""
        crops = []
        seen = []
        for row in rows:
            image = load(records, row)
            crops.append(self.transform(image))
            seen.append(self.transform.seen(*image.shape[:2]))
        return torch.stack(crops).permute(0, 3, 1, 2), seen


def open_attention(encoder: Encoder | None) -> Attention:
    """Attention of an Encoder's network. Raises InputError for embeddings without any."""
    if encoder is None:
        raise InputError("--attention looks into the network, and --embeddings come without one")
    return Attention(encoder)


def check_attention(runtime: str) -> None:
    """Raise InputError for a runtime whose network cannot be looked into; `auto` is torch there."""
    if runtime not in ("auto", "torch"):
        raise InputError(f"--attention looks into the network, which --runtime={runtime} hides: leave it out")


def _network_for_images(encoder: Encoder) -> tuple[Embedder, ModelSettings]:
    """The network, or of several towers the one for images, with its settings."""
    check_attention(encoder.runtime)
    network: nn.Module = encoder.network
    if not isinstance(network, TwoTowers):
        return network, encoder.settings
    if "image" not in network.towers:
        raise InputError("--attention shows where a network looks in images, and no tower takes any")
    return network.towers["image"], encoder.settings.towers["image"]
