"""What training does to an image, by name: a new augmentation is a function here and a row of AUGMENTATIONS.

Each function takes (H, W, 3) uint8 RGB and returns the same; what it draws comes from torch's default generator.
"""

import functools
import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import cv2
import numpy as np
import torch

WHITE, GREY = 255, 128
LOG_SCALE = math.log(1.25)
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def uniform(low: list[float], high: list[float]) -> np.ndarray:
    """Numbers between each of `low` and `high`, float64, from torch's default generator."""
    draws = torch.rand(len(low), dtype=torch.float64).numpy()
    return np.asarray(low) + (np.asarray(high) - np.asarray(low)) * draws


def random_flip(image: np.ndarray) -> np.ndarray:
    """Left-right, half of the time."""
    if torch.rand(()).item() < 0.5:
        return cv2.flip(image, 1)
    return image


def random_affine(image: np.ndarray) -> np.ndarray:
    """Rotate to 15 degrees, scale by 0.8 to 1.25, shift to 12 % of each side; white comes in from outside."""
    height, width = image.shape[:2]
    angle, log_scale, right, down = uniform([-15, -LOG_SCALE, -0.12, -0.12], [15, LOG_SCALE, 0.12, 0.12])
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle, math.exp(log_scale))
    matrix[:, 2] += right * width, down * height
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(WHITE, WHITE, WHITE),
    )


def random_colour(image: np.ndarray, jitter: bool = True, grey: bool = False) -> np.ndarray:
    """Brightness, contrast, saturation, hue as one matrix on RGB (hue turns the chroma of YIQ); grey at 0.2.

    jitter, grey: which of the two are drawn. Both in one matrix round the pixels once.
    """
    hue, saturation, contrast, brightness = 0, 1, 1, 1
    if jitter:
        hue, saturation, contrast, brightness = uniform([-0.5, 0.5, 0.7, 0.7], [0.5, 1.5, 1.3, 1.3])
    if grey and torch.rand(()) < 0.2:
        saturation = 0
    rotation = np.array([[math.cos(hue), -math.sin(hue)], [math.sin(hue), math.cos(hue)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * rotation
    linear = brightness * contrast * (FROM_YIQ @ chroma @ TO_YIQ)
    offset = np.full((3, 1), 128 * brightness * (1 - contrast))
    return cv2.transform(image, np.hstack([linear, offset]))


def random_grey(image: np.ndarray) -> np.ndarray:
    """To grey, one time in five."""
    return random_colour(image, jitter=False, grey=True)


def random_colour_and_grey(image: np.ndarray) -> np.ndarray:
    """Both of them."""
    return random_colour(image, jitter=True, grey=True)


def randaugment(image: np.ndarray) -> np.ndarray:
    """Two random operations of magnitude 9 (arXiv 1909.13719)."""
    return _as_torchvision("RandAugment", image, num_ops=2, magnitude=9, fill=WHITE)


def random_erasing(image: np.ndarray) -> np.ndarray:
    """A random rectangle set to grey, one time in four (arXiv 1708.04896)."""
    return _as_torchvision("RandomErasing", image, p=0.25, value=GREY)


def _as_torchvision(name: str, image: np.ndarray, **settings: float) -> np.ndarray:
    """A transform of torchvision, which takes (3, H, W) tensors, on an (H, W, 3) array."""
    channels_first = torch.from_numpy(image).permute(2, 0, 1)
    return _transform_of_torchvision(name, **settings)(channels_first).permute(1, 2, 0).numpy()


@functools.cache
def _transform_of_torchvision(name: str, **settings: float) -> torch.nn.Module:
    from torchvision.transforms import v2  # its import takes a while, and others do without it

    return getattr(v2, name)(**settings)


class Augmentation(NamedTuple):
    """A row of AUGMENTATIONS: a line of help, and the function; None where the transform itself does it."""

    help: str
    function: Callable[[np.ndarray], np.ndarray] | None


# In the order in which they are applied, whatever the order in which they are named.
AUGMENTATIONS = {
    "crop": Augmentation("random resized crop, --crop_scale of the area, aspect 3/4 to 4/3", None),
    "flip": Augmentation("left-right, half of the time", random_flip),
    "affine": Augmentation("rotation to 15 degrees, scale 0.8 to 1.25, shift to 12 %, white outside", random_affine),
    "colour": Augmentation(
        "brightness and contrast 0.7 to 1.3, saturation 0.5 to 1.5, hue to 0.5 radian", random_colour
    ),
    "grey": Augmentation("to grey, one time in five", random_grey),
    "randaugment": Augmentation("two random operations of magnitude 9 (arXiv 1909.13719)", randaugment),
    "erasing": Augmentation("a random rectangle set to grey, one time in four (arXiv 1708.04896)", random_erasing),
}


def augmentation_functions(names: Collection[str]) -> list[Callable[[np.ndarray], np.ndarray]]:
    """The functions of the named augmentations in the order of AUGMENTATIONS, but for the crop, which has none."""
    functions = {}
    for name, augmentation in AUGMENTATIONS.items():
        if name in names and augmentation.function is not None:
            functions[name] = augmentation.function
    # Two matrices one after the other would round the pixels twice.
    if "colour" in functions and "grey" in functions:
        functions["colour"] = random_colour_and_grey
        del functions["grey"]
    return list(functions.values())
