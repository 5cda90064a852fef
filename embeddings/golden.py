"""Images that an exported network is held against torch on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InputError, first_line
from core.text import counted
from data.image.files import load
from data.image.resize import resize
from data.image.transforms import TestTransform
from data.records import Records
from models.export.geometry import CropGeometry
from models.export.network import Crop

COUNT = 8  # images of a list
LEAST_COSINE = 0.9999  # to torch, in float32
MOST_LEVELS = 2  # of grey by which a pixel may be another behind the exported resizing
BATCHES = (1, 3)  # sizes that are tried beside that of all images


@dataclass(frozen=True)
class Resized:
    """How the geometry that is exported differs from the loader's, on all golden images.

    share: of the values of crops that differ; grey_levels: by how many at most; least_cosine: of embeddings.
    """

    share: float
    grey_levels: int
    least_cosine: float


class GoldenImages:
    """Images with what torch makes of them.

    network: on the CPU, in evaluation mode. source: where the images are from, in words. images: (H, W, 3) uint8 of
    several sizes. normalises: whether what is held against it has length 1. Raises InputError for embeddings that are
    not finite.
    """

    def __init__(
        self, network: nn.Module, source: str, images: list[np.ndarray], transform: TestTransform, normalises: bool
    ) -> None:
        self.network = network
        self.source = source
        self.images = images
        self.normalises = normalises
        # (N, 3, height, width) by the loader's geometry, and what torch makes of them, (N, D).
        self.crops = torch.stack([transform(image) for image in images]).permute(0, 3, 1, 2).contiguous()
        self.embeddings = self._expected(self.crops)
        if not torch.isfinite(self.embeddings).all():
            raise InputError("the network's embeddings are NaN or infinite: it is not worth an export")

    def cosine_of_crops(self, network: nn.Module) -> float:
        """The least cosine of what `network` makes of the crops to torch's, in batches of several sizes.

        Raises InputError where it takes no batch of another size than it was traced with.
        """
        least = 1.0
        for size in {*BATCHES, len(self.crops)}:
            found = _run(network, self.crops[:size])
            least = min(least, _least_cosine(found, self.embeddings[:size]))
        return least

    def cosine_of_images(self, network: nn.Module, crop: Crop) -> tuple[float, Resized]:
        """Of a network that resizes: (its least cosine to torch behind the same resizing, that resizing's own figures).

        Each image by itself, since sizes differ, and one of them twice in a batch.
        """
        geometry = CropGeometry(crop)
        crops = torch.cat([geometry(_as_batch(image)) for image in self.images])
        expected = self._expected(crops)
        least = 1.0
        for index, image in enumerate(self.images):
            found = _run(network, _as_batch(image))
            least = min(least, _least_cosine(found, expected[index : index + 1]))
        twice = _run(network, _as_batch(self.images[0]).repeat(2, 1, 1, 1))
        least = min(least, _least_cosine(twice, expected[[0, 0]]))

        difference = (crops.int() - self.crops.int()).abs()
        share = (difference > 0).float().mean().item()
        return least, Resized(share, int(difference.max()), _least_cosine(expected, self.embeddings))

    @torch.inference_mode()
    def _expected(self, crops: torch.Tensor) -> torch.Tensor:
        embeddings = self.network(crops).float()
        if self.normalises:
            embeddings = F.normalize(embeddings)
        return embeddings


def golden_images(
    network: nn.Module, transform: TestTransform, records: Records | None, normalises: bool
) -> GoldenImages:
    """Some images of the list, evenly spaced, and made-up ones that are small, large, long and the crop's own size.

    records: None for made-up images alone. Raises InputError for an image that cannot be read.
    """
    images = _made_up(transform.height, transform.width)
    source = f"{len(images)} made-up images"
    if records is not None:
        rows = spaced_rows(len(records), COUNT)
        images = [load(records, row) for row in rows] + images
        source = f"{counted(len(rows), 'image')} of {records.source} and {source}"
    return GoldenImages(network, source, images, transform, normalises)


def spaced_rows(total: int, count: int) -> list[int]:
    """Up to `count` rows of a list of `total`, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()


def _made_up(height: int, width: int) -> list[np.ndarray]:
    """Blots of colour with some noise, the same ones always."""
    generator = np.random.default_rng(0)
    sides = [(height, width), (2 * height + 1, 3 * width), (height // 2 + 1, width // 2 + 3), (height + 5, 2 * width)]
    images = []
    for image_height, image_width in sides:
        blots = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = resize(blots, image_width, image_height).astype(int)
        image += generator.integers(-20, 21, image.shape)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


def _as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def _run(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    try:
        with torch.inference_mode():
            return network(images).float()
    except Exception as error:  # of whichever runtime it is
        raise InputError(
            f"the exported network takes no images of shape {tuple(images.shape)}: {first_line(error)}"
        ) from None


def _least_cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of rows (B, D); -1 where shapes differ or a number is not finite."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return -1.0
    # In float64, or a cosine of 1 would be rounded to more than 1.
    return F.cosine_similarity(found.double(), expected.double()).min().item()
