"""What training does to images beside the crop, by name, and the random draws it takes."""

import math

import cv2
import numpy as np
import torch

from core.errors import InputError, near_match

# In the order in which they are applied, whatever the order in which they are named.
AUGMENTATIONS = {
    "crop": "random resized crop, --crop_scale of the area, aspect 3/4 to 4/3",
    "flip": "left-right, half of the time",
    "affine": "rotation to 15 degrees, scale 0.8 to 1.25, shift to 12 %, white outside",
    "colour": "brightness and contrast 0.7 to 1.3, saturation 0.5 to 1.5, hue to 0.5 radian",
    "grey": "to grey, one time in five",
    "randaugment": "two random operations of magnitude 9 (arXiv 1909.13719)",
    "erasing": "a random rectangle set to grey, one time in four (arXiv 1708.04896)",
}
WHITE, GREY = 255, 128
LOG_SCALE = math.log(1.25)
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def parse_augment(text):
    """A comma-separated list of AUGMENTATIONS, or `none`, as a tuple of names. Raises InputError for an unknown one."""
    names = [] if text in ("", "none") else text.split(",")
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(
                f"unknown augmentation {name!r}; there are: {', '.join(AUGMENTATIONS)}."
                f"{near_match(name, AUGMENTATIONS)}"
            )
    return tuple(name for name in AUGMENTATIONS if name in names)


def uniform(low, high):
    """Numbers between each of `low` and `high`, from torch's default generator."""
    low = np.asarray(low)
    return low + (np.asarray(high) - low) * torch.rand(len(low), dtype=torch.float64).numpy()


def random_affine(image):
    """Rotate to 15 degrees, scale by 0.8 to 1.25, shift to 12 % of each side; white comes in from outside."""
    height, width = image.shape[:2]
    angle, log_scale, right, down = uniform([-15, -LOG_SCALE, -0.12, -0.12], [15, LOG_SCALE, 0.12, 0.12])
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, math.exp(log_scale))
    matrix[:, 2] += right * width, down * height
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (WHITE, WHITE, WHITE)}
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, **border)


def random_colour(image, jitter, grey):
    """Brightness, contrast, saturation, hue as one matrix on RGB (hue turns the chroma of YIQ); grey at 0.2."""
    hue, saturation, contrast, brightness = (
        uniform([-0.5, 0.5, 0.7, 0.7], [0.5, 1.5, 1.3, 1.3]) if jitter else (0, 1, 1, 1)
    )
    if grey and torch.rand(()) < 0.2:
        saturation = 0
    turn = np.array([[math.cos(hue), -math.sin(hue)], [math.sin(hue), math.cos(hue)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * turn
    linear = brightness * contrast * (FROM_YIQ @ chroma @ TO_YIQ)
    offset = np.full((3, 1), 128 * brightness * (1 - contrast))
    return cv2.transform(image, np.hstack([linear, offset]))
