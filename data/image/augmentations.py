"""What training does to an image, by name: a new augmentation is a function here and a row of AUGMENTATIONS.

Each function draws its random numbers from a torch generator, whatever the image is, and returns what does it to one:
(H, W, 3) uint8 RGB -> the same. So all of an image is drawn before it is decoded.
"""

import functools
import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import cv2
import numpy as np
import torch

from core.errors import InputError, raised

Change = Callable[[np.ndarray], np.ndarray]

WHITE, GREY = 255, 128
LOG_SCALE = math.log(1.25)
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def uniform(low: list[float], high: list[float], generator: torch.Generator) -> np.ndarray:
    """Numbers between each of `low` and `high`, float64."""
    draws = torch.rand(len(low), dtype=torch.float64, generator=generator).numpy()
    return np.asarray(low) + (np.asarray(high) - np.asarray(low)) * draws


def draw_flip(generator: torch.Generator) -> Change:
    """Left-right, half of the time."""
    if torch.rand((), generator=generator).item() < 0.5:
        return _mirror
    return _leave


def _mirror(image: np.ndarray) -> np.ndarray:
    return cv2.flip(image, 1)


def _leave(image: np.ndarray) -> np.ndarray:
    return image


def draw_affine(generator: torch.Generator) -> Change:
    """Rotate to 15 degrees, scale by 0.8 to 1.25, shift to 12 % of each side; white comes in from outside."""
    bounds = np.array([15, LOG_SCALE, 0.12, 0.12])
    angle, log_scale, right, down = uniform(-bounds, bounds, generator)

    def change(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, math.exp(log_scale))
        matrix[:, 2] += right * width, down * height
        return cv2.warpAffine(
            image,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(WHITE, WHITE, WHITE),
        )

    return change


def draw_colour(generator: torch.Generator, jitter: bool = True, grey: bool = False) -> Change:
    """Brightness, contrast, saturation, hue as one matrix on RGB (hue turns the chroma of YIQ); grey at 0.2.

    jitter, grey: which of the two are drawn. Both in one matrix round the pixels once.
    """
    hue, saturation, contrast, brightness = 0, 1, 1, 1
    if jitter:
        hue, saturation, contrast, brightness = uniform([-0.5, 0.5, 0.7, 0.7], [0.5, 1.5, 1.3, 1.3], generator)
    if grey and torch.rand((), generator=generator) < 0.2:
        saturation = 0
    rotation = np.array([[math.cos(hue), -math.sin(hue)], [math.sin(hue), math.cos(hue)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * rotation
    linear = brightness * contrast * (FROM_YIQ @ chroma @ TO_YIQ)
    offset = np.full((3, 1), 128 * brightness * (1 - contrast))
    return functools.partial(cv2.transform, m=np.hstack([linear, offset]))


def draw_of_torchvision(generator: torch.Generator, names: Collection[str]) -> Change:
    """Those of TORCHVISION one after the other.

    They draw from torch's default generator when they see the image: it has then the numbers that `generator` has now,
    and goes on afterwards as if they had drawn none. `generator` goes on from somewhere else.
    """
    drawn = generator.get_state()
    generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))

    def change(image: np.ndarray) -> np.ndarray:
        default = torch.default_generator
        before = default.get_state()
        default.set_state(drawn)
        try:
            for name in names:
                image = _as_torchvision(image, *TORCHVISION[name])
        finally:
            default.set_state(before)
        return image

    return change


# Torchvision's name of a transform, and its settings.
TORCHVISION = {
    "randaugment": ("RandAugment", {"num_ops": 2, "magnitude": 9, "fill": WHITE}),
    "erasing": ("RandomErasing", {"p": 0.25, "value": GREY}),
}


def _as_torchvision(image: np.ndarray, name: str, settings: dict[str, float]) -> np.ndarray:
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
    function: Callable[[torch.Generator], Change] | None


# In the order in which they are drawn and applied, whatever the order in which they are named.
AUGMENTATIONS = {
    "crop": Augmentation("random resized crop, --crop_scale of the area, aspect 3/4 to 4/3", None),
    "flip": Augmentation("left-right, half of the time", draw_flip),
    "affine": Augmentation("rotation to 15 degrees, scale 0.8 to 1.25, shift to 12 %, white outside", draw_affine),
    "colour": Augmentation("brightness and contrast 0.7 to 1.3, saturation 0.5 to 1.5, hue to 0.5 radian", draw_colour),
    "grey": Augmentation("to grey, one time in five", functools.partial(draw_colour, jitter=False, grey=True)),
    "randaugment": Augmentation(
        "two random operations of magnitude 9 (arXiv 1909.13719)",
        functools.partial(draw_of_torchvision, names=("randaugment",)),
    ),
    "erasing": Augmentation(
        "a random rectangle set to grey, one time in four (arXiv 1708.04896)",
        functools.partial(draw_of_torchvision, names=("erasing",)),
    ),
}
# Two that are drawn as one, which takes the place of the first.
TOGETHER = {
    # Two matrices one after the other would round the pixels twice.
    ("colour", "grey"): functools.partial(draw_colour, jitter=True, grey=True),
    # What the second draws follows what the first has drawn.
    ("randaugment", "erasing"): functools.partial(draw_of_torchvision, names=("randaugment", "erasing")),
}


# So often an augmentation is tried: many leave an image as it is half of the time.
TRIES = 8


def try_augmentations(names: Collection[str], height: int, width: int) -> None:
    """Raise InputError, naming it, for an augmentation that makes no image of an image, before any is loaded."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy()
    for name in names:
        function = AUGMENTATIONS[name].function
        for _ in range(TRIES if function is not None else 0):
            try:
                changed = function(generator)(image.copy())
            except Exception as error:
                raise InputError(f"the augmentation {name!r} raised {raised(error)}") from error
            given = type(changed).__name__
            if isinstance(changed, np.ndarray):
                given = f"{changed.dtype} {changed.shape}"
            if given != f"uint8 {image.shape}":
                raise InputError(
                    f"the augmentation {name!r} gave {given} of an image; the same shape is asked, uint8 {image.shape}"
                )


def augmentation_functions(names: Collection[str]) -> list[Callable[[torch.Generator], Change]]:
    """The functions of the named augmentations in the order of AUGMENTATIONS, but for the crop, which has none."""
    functions = {}
    for name, augmentation in AUGMENTATIONS.items():
        if name in names and augmentation.function is not None:
            functions[name] = augmentation.function
    for (first, second), together in TOGETHER.items():
        if first in functions and second in functions:
            functions[first] = together
            del functions[second]
    return list(functions.values())
