"""Pictures to network inputs: the test geometry, the training crop, and augmentations by name; uint8 in, uint8 out."""

import math

import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from core.errors import InputError
from data.image.augmentations import GREY, WHITE, random_affine, random_colour
from data.image.decode import Jpeg, resize

LONGEST = 16  # times the crop's own ratio of sides that a picture may have before its ends are cut off


class TestTransform:
    """Short side to `short_side` pixels, then the centre crop of `height` x `width` pixels."""

    def __init__(self, height, width, short_side=0):
        self.height, self.width = height, width
        self.short_side = short_side or max(height, width)
        if self.short_side < max(height, width):
            raise InputError(
                f"resize_short_size is {short_side}, smaller than the crop {height}x{width} of image_shape"
            )
        self.longest = LONGEST * max(height, width) / min(height, width)

    def __call__(self, image):
        """(H, W, 3) uint8 array -> (height, width, 3) uint8 tensor."""
        image = self._without_ends(image)
        scale = self.short_side / min(image.shape[:2])
        width = max(self.width, round(image.shape[1] * scale))
        height = max(self.height, round(image.shape[0] * scale))
        left, top = (width - self.width) // 2, (height - self.height) // 2
        image = resize(image, width, height)[top : top + self.height, left : left + self.width]
        return torch.from_numpy(np.ascontiguousarray(image))

    def _without_ends(self, image):
        """The middle of a picture that is very long: one of 1 x 1,000,000 pixels would take gigabytes when resized."""
        most = math.ceil(self.longest * min(image.shape[:2]))
        top, left = (max(0, side - most) // 2 for side in image.shape[:2])
        return image[top : top + most, left : left + most]


class TrainTransform:
    """The named augmentations, drawn from torch's default generator; without "crop" the test geometry comes first."""

    def __init__(self, height, width, short_side=0, augment=("crop", "flip"), crop_scale=(0.08, 1.0)):
        self.height, self.width, self.crop_scale = height, width, crop_scale
        self.augment = frozenset(augment)
        self.centre_crop = TestTransform(height, width, short_side)
        self.randaugment = v2.RandAugment(num_ops=2, magnitude=9, fill=WHITE)
        self.erasing = v2.RandomErasing(0.25, value=GREY)

    def __call__(self, image):
        """(H, W, 3) uint8 array, or a Jpeg if "crop" is named -> (height, width, 3) uint8 tensor."""
        image = self._crop(image) if "crop" in self.augment else self.centre_crop(image).numpy()
        if "flip" in self.augment and torch.rand(()) < 0.5:
            image = cv2.flip(image, 1)
        if "affine" in self.augment:
            image = random_affine(image)
        if self.augment & {"colour", "grey"}:
            image = random_colour(image, "colour" in self.augment, "grey" in self.augment)
        image = torch.from_numpy(image)
        for name, step in (("randaugment", self.randaugment), ("erasing", self.erasing)):
            if name in self.augment:
                image = step(image.permute(2, 0, 1)).permute(1, 2, 0)
        return image.contiguous()

    def _crop(self, image):
        left, top, width, height = self.draw_crop(*image.shape[:2])
        if isinstance(image, Jpeg):
            return image.resized(left, top, width, height, self.width, self.height)
        return resize(image[top : top + height, left : left + width], self.width, self.height)

    def draw_crop(self, full_height, full_width):
        """A crop of random area and aspect (arXiv 1409.4842 §6), else after ten misfits the largest centred one.

        Returns left, top, width, height.
        """
        for _ in range(10):
            draw = torch.rand(4, dtype=torch.float64).tolist()
            low, high = self.crop_scale
            area = full_height * full_width * (low + (high - low) * draw[0])
            aspect = math.exp(math.log(4 / 3) * (2 * draw[1] - 1))
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= full_width and 0 < height <= full_height:
                top = int(draw[2] * (full_height - height + 1))
                left = int(draw[3] * (full_width - width + 1))
                return left, top, width, height
        width = min(full_width, round(full_height * 4 / 3))
        height = min(full_height, round(full_width * 4 / 3))
        return (full_width - width) // 2, (full_height - height) // 2, width, height
