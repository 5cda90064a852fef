"""The test geometry: what a network sees of an image that it is not trained on, by OpenCV and NumPy alone."""

import math
from typing import Protocol, Self

import numpy as np

from core.errors import InputError
from data.image.resize import resize_by

LONGEST = 16  # times the crop's own ratio of sides that an image may have before its ends are cut off
MODES = ("crop", "squash", "pad")
PADDING = 255  # white, around an image that does not fill its crop


class Geometry(Protocol):
    """The settings of a network that decide what it sees of a test image, as the flags of these names have them."""

    image_shape: tuple[int, int, int]
    resize_short_size: int
    resize_filter: str
    resize_mode: str


class TestGeometry:
    """Short side to `short_side` pixels (0: the crop's longer side), then the centre crop of `height` x `width`.

    resize_filter: one of data.image.resize.FILTERS. resize_mode: `crop`, as above; `squash`: all of an image is brought
    to the ratio of the crop's sides, its longer one `short_side` pixels long; `pad`: all of it fits into these sides,
    in the middle, with PADDING around it.
    """

    def __init__(
        self, height: int, width: int, short_side: int = 0, resize_filter: str = "area", resize_mode: str = "crop"
    ):
        self.height = height
        self.width = width
        self.resize_filter = resize_filter
        self.squashes = resize_mode == "squash"
        self.pads = resize_mode == "pad"
        self.short_side = short_side or max(height, width)
        if self.short_side < max(height, width):
            raise InputError(
                f"resize_short_size is {short_side}, smaller than the crop {height}x{width} of image_shape"
            )
        self.longest = LONGEST * max(height, width) / min(height, width)

    @classmethod
    def of(cls, settings: Geometry) -> Self:
        """That of a network's settings."""
        height, width = settings.image_shape[1:]
        return cls(height, width, settings.resize_short_size, settings.resize_filter, settings.resize_mode)

    def crop(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (height, width, 3) uint8."""
        image = self._without_ends(image)
        width, height = self._resized_sides(*image.shape[:2])
        image = resize_by(self.resize_filter, image, width, height)
        if self.pads:
            image = self._padded(image)
            height, width = image.shape[:2]
        left = (width - self.width) // 2
        top = (height - self.height) // 2
        image = image[top : top + self.height, left : left + self.width]
        return np.ascontiguousarray(image)

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what is left of an image of height x width pixels, in these; padding lies
        beyond it."""
        top, left, longest = self._middle(height, width)
        height = min(height, longest)
        width = min(width, longest)
        resized_width, resized_height = self._resized_sides(height, width)
        column = width / resized_width
        row = height / resized_height
        padding_left = padding_top = 0
        if self.pads:
            box_width, box_height = self._box()
            padding_left = (box_width - resized_width) // 2
            padding_top = (box_height - resized_height) // 2
            resized_width, resized_height = box_width, box_height
        left += ((resized_width - self.width) // 2 - padding_left) * column
        top += ((resized_height - self.height) // 2 - padding_top) * row
        return left, top, left + self.width * column, top + self.height * row

    def _resized_sides(self, height: int, width: int) -> tuple[int, int]:
        """(width, height) of an image before the crop."""
        if self.squashes:
            return self._box()
        if self.pads:
            box_width, box_height = self._box()
            scale = min(box_width / width, box_height / height)
            return max(1, round(width * scale)), max(1, round(height * scale))
        scale = self.short_side / min(height, width)
        return max(self.width, round(width * scale)), max(self.height, round(height * scale))

    def _box(self) -> tuple[int, int]:
        """(width, height) that all of an image comes to, or fits into: of the ratio of the crop's sides."""
        scale = self.short_side / max(self.height, self.width)
        return round(self.width * scale), round(self.height * scale)

    def _padded(self, image: np.ndarray) -> np.ndarray:
        """An image in the middle of the box that it fits into; of an odd number of pixels the last one is behind it."""
        height, width = image.shape[:2]
        box_width, box_height = self._box()
        top, left = (box_height - height) // 2, (box_width - width) // 2
        padded = np.full((box_height, box_width, 3), PADDING, np.uint8)
        padded[top : top + height, left : left + width] = image
        return padded

    def _without_ends(self, image: np.ndarray) -> np.ndarray:
        """The middle of an image that is very long: one of 1 x 1,000,000 pixels would take gigabytes when resized."""
        top, left, longest = self._middle(*image.shape[:2])
        return image[top : top + longest, left : left + longest]

    def _middle(self, height: int, width: int) -> tuple[int, int, int]:
        """(top, left, most pixels a side) of what is looked at of an image."""
        if self.squashes or self.pads:
            return 0, 0, max(height, width)
        longest = math.ceil(self.longest * min(height, width))
        return max(0, height - longest) // 2, max(0, width - longest) // 2, longest
