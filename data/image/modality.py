"""The images' modality: files, kept in memory or not, to uint8 batches."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.data import default_collate

from data.cache import Cache
from data.image.decode import EncodedJpeg, crop_to_box, open_image
from data.image.files import load
from data.image.transforms import TestTransform, TrainTransform
from data.modality import Modality
from data.records import Records


class ImageModality(Modality):
    """Images as a Modality.

    transform: TestTransform or TrainTransform. decoder: how a JPEG is opened (decode.open_image); anything but "exact"
    needs a transform that crops. cache: what reads the files, and may keep them; one that keeps decoded images opens
    all of them whole, kept or not.
    """

    def __init__(
        self,
        transform: TestTransform | TrainTransform,
        decoder: str = "exact",
        cache: Cache | None = None,
    ):
        self.transform = transform
        self.decoder = decoder
        self.cache = Cache() if cache is None else cache
        self.generator = torch.Generator()

    def load(self, records: Records, index: int) -> np.ndarray | EncodedJpeg:
        """An image within its box: its pixels (H, W, 3) uint8 RGB, or a JPEG that is decoded when its crop is known."""
        path = records.paths[index]
        box = records.box_of(index)
        content = self.cache.read(path)
        if self.cache.kind == "decoded":
            return crop_to_box(content, path, box)
        return open_image(self.decoder, content, path, box)

    def augment(self, sample: np.ndarray | EncodedJpeg, seed: int) -> torch.Tensor:
        """(height, width, 3) uint8; the random numbers of this process go on as if none had been drawn."""
        return self._draw(sample, seed)(sample)

    def begin(self, sample: np.ndarray | EncodedJpeg, seed: int) -> Callable[[], torch.Tensor]:
        """As `augment`, of which a JPEG that is still encoded is decoded by what comes back; pixels do not wait."""
        if isinstance(sample, EncodedJpeg):
            return partial(self._draw(sample, seed), sample)
        return super().begin(sample, seed)

    def _draw(self, sample: np.ndarray | EncodedJpeg, seed: int) -> Callable[[np.ndarray | EncodedJpeg], torch.Tensor]:
        """What is done to an image by the numbers of its seed."""
        self.generator.manual_seed(seed)
        return self.transform.draw(sample.shape, self.generator)

    def collate(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """(B, 3, height, width) uint8 in channels_last memory."""
        return default_collate(samples).permute(0, 3, 1, 2)

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        """The whole image within its box, (H, W, 3) uint8 RGB."""
        return load(records, index)
