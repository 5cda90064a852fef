"""OML's transforms by torchvision; those that it makes by albumentations have the same geometry here."""

import numpy as np
from PIL import Image
from torchvision.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

from compat.oml.const import MEAN, MEAN_CLIP, STD, STD_CLIP
from report.drawing import letterbox

Channels = tuple[float, float, float]


class FitIntoSquare:
    """A picture as large as a square of `side` pixels allows, in its middle, on white."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, picture: Image.Image) -> Image.Image:
        return Image.fromarray(letterbox(np.asarray(picture), self.side))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(side={self.side})"


def get_augs_torch(im_size: int, mean: Channels = MEAN, std: Channels = STD) -> Compose:
    """A square of im_size pixels, and its mirror image half of the time."""
    return Compose(
        [Resize((im_size, im_size)), RandomHorizontalFlip(), ColorJitter(), ToTensor(), Normalize(mean, std)]
    )


def get_augs_hypvit(im_size: int = 224, min_scale: float = 0.2, mean: Channels = MEAN, std: Channels = STD) -> Compose:
    """A crop of random size, and its mirror image half of the time (Hyp-ViT, arXiv 2203.10833)."""
    crop = RandomResizedCrop(im_size, scale=(min_scale, 1.0), interpolation=InterpolationMode.BICUBIC)
    return Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(mean, std)])


def get_normalisation_torch(mean: Channels = MEAN, std: Channels = STD) -> Compose:
    """The image as it is, normalised."""
    return Compose([ToTensor(), Normalize(mean, std)])


def get_normalisation_resize_torch(im_size: int, mean: Channels = MEAN, std: Channels = STD) -> Compose:
    """A square of im_size pixels, whatever the ratio of the sides."""
    return Compose([Resize((im_size, im_size)), ToTensor(), Normalize(mean, std)])


def get_normalisation_resize_hypvit(
    im_size: int = 224, crop_size: int = 224, mean: Channels = MEAN, std: Channels = STD
) -> Compose:
    """The short side to im_size pixels, then the middle square of crop_size."""
    resize = Resize(im_size, interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(crop_size), ToTensor(), Normalize(mean, std)])


def get_normalisation_resize_albu(im_size: int, mean: Channels = MEAN, std: Channels = STD) -> Compose:
    """The whole image in a white square of im_size pixels."""
    return Compose([FitIntoSquare(im_size), ToTensor(), Normalize(mean, std)])


def get_normalisation_resize_albu_clip(im_size: int) -> Compose:
    """As get_normalisation_resize_albu, by CLIP's means."""
    return get_normalisation_resize_albu(im_size, MEAN_CLIP, STD_CLIP)


def get_unicom_transforms(im_size: int = 224) -> Compose:
    """The middle square, by CLIP's means."""
    return get_normalisation_resize_hypvit(im_size, im_size, MEAN_CLIP, STD_CLIP)


__all__ = [
    "get_augs_hypvit",
    "get_augs_torch",
    "get_normalisation_resize_albu",
    "get_normalisation_resize_albu_clip",
    "get_normalisation_resize_hypvit",
    "get_normalisation_resize_torch",
    "get_normalisation_torch",
    "get_unicom_transforms",
]
