"""Images to network inputs: the test geometry, and the training crop with its augmentations; uint8 in, uint8 out.

Of a training image everything random is drawn first, by its sides alone: a JPEG that is still encoded is decoded when
its crop is known.
"""

import math
from collections.abc import Callable, Collection

import numpy as np
import torch

from data.image.augmentations import augmentation_functions, try_augmentations
from data.image.decode import Crop, EncodedJpeg, resized_crop
from data.image.geometry import TestGeometry


class TestTransform(TestGeometry):
    """The test geometry as a loader uses it."""

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 array -> (height, width, 3) uint8 tensor."""
        return torch.from_numpy(self.crop(image))

    def draw(self, _shape: tuple[int, ...], _generator: torch.Generator) -> Callable[[np.ndarray], torch.Tensor]:
        """As TrainTransform's; nothing is random here."""
        return self


class TrainTransform:
    """The named augmentations; without "crop" the test geometry comes first.

    augment: names of AUGMENTATIONS. crop_scale: least and largest share of the image's area that a crop has.
    resize_filter, resize_mode: of the test geometry.
    """

    def __init__(
        self,
        height: int,
        width: int,
        short_side: int,
        augment: Collection[str],
        crop_scale: tuple[float, float],
        resize_filter: str = "area",
        resize_mode: str = "crop",
    ):
        self.height = height
        self.width = width
        self.crop_scale = crop_scale
        self.draws_crop = "crop" in augment
        self.centre_crop = TestGeometry(height, width, short_side, resize_filter, resize_mode)
        try_augmentations(augment, height, width)
        self.augmentations = augmentation_functions(augment)

    def __call__(self, image: np.ndarray | EncodedJpeg) -> torch.Tensor:
        """(H, W, 3) uint8 array, or an EncodedJpeg if "crop" is named -> (height, width, 3) uint8 tensor.

        Drawn from torch's default generator.
        """
        return self.draw(image.shape, torch.default_generator)(image)

    def draw(
        self, shape: tuple[int, ...], generator: torch.Generator
    ) -> Callable[[np.ndarray | EncodedJpeg], torch.Tensor]:
        """What is done to an image of this shape, (H, W, 3): a function of it; nothing is drawn any more when it is
        called."""
        crop = None
        if self.draws_crop:
            crop = self.draw_crop(*shape[:2], generator)
        changes = [draw(generator) for draw in self.augmentations]

        def apply(image: np.ndarray | EncodedJpeg) -> torch.Tensor:
            if crop is None:
                pixels = self.centre_crop.crop(image)
            else:
                pixels = resized_crop(image, crop, self.width, self.height)
            for change in changes:
                pixels = change(pixels)
            return torch.from_numpy(pixels).contiguous()

        return apply

    def draw_crop(self, full_height: int, full_width: int, generator: torch.Generator) -> Crop:
        """A crop of random area and aspect (arXiv 1409.4842 §6), else after ten misfits the largest centred one."""
        low, high = self.crop_scale
        for _ in range(10):
            area_draw, aspect_draw, top_draw, left_draw = torch.rand(
                4, dtype=torch.float64, generator=generator
            ).tolist()
            area = full_height * full_width * (low + (high - low) * area_draw)
            aspect = math.exp(math.log(4 / 3) * (2 * aspect_draw - 1))
            width = round(math.sqrt(area * aspect))
            height = round(math.sqrt(area / aspect))
            if 0 < width <= full_width and 0 < height <= full_height:
                top = int(top_draw * (full_height - height + 1))
                left = int(left_draw * (full_width - width + 1))
                return Crop(left, top, width, height)
        width = min(full_width, round(full_height * 4 / 3))
        height = min(full_height, round(full_width * 4 / 3))
        return Crop((full_width - width) // 2, (full_height - height) // 2, width, height)
