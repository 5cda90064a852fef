"""OML's names of transforms, and which of them goes with which published weights."""

from collections.abc import Callable, Mapping
from typing import Any

from compat.oml._errors import unknown_name
from compat.oml._tables import entry, options_of
from compat.oml.transforms.images.torchvision import (
    get_augs_hypvit,
    get_augs_torch,
    get_normalisation_resize_albu,
    get_normalisation_resize_albu_clip,
    get_normalisation_resize_hypvit,
    get_normalisation_resize_torch,
    get_normalisation_torch,
    get_unicom_transforms,
)
from compat.oml.transforms.images.utils import get_im_reader_for_transforms
from models.backbones.oml import CLIPS, RESNETS, UNICOMS, VITS

TRANSFORMS_ALBU = {
    "norm_albu": get_normalisation_torch,
    "norm_resize_albu": get_normalisation_resize_albu,
    "norm_resize_albu_clip": get_normalisation_resize_albu_clip,
}
TRANSFORMS_TORCH = {
    "augs_torch": get_augs_torch,
    "norm_torch": get_normalisation_torch,
    "norm_resize_torch": get_normalisation_resize_torch,
    "augs_hypvit_torch": get_augs_hypvit,
    "norm_resize_hypvit_torch": get_normalisation_resize_hypvit,
    "unicom_transforms": get_unicom_transforms,
}
TRANSFORMS_REGISTRY = {**TRANSFORMS_ALBU, **TRANSFORMS_TORCH}

IN_WHITE_SQUARES = ("vits16_cars", "vits16_cub")  # ViTs that OML tests so
WITH_MLP = "vits16_224_mlp_384_inshop"


def get_transforms(name: str, **options: Any) -> Callable:
    """The transform of that name. Raises UnknownName."""
    return entry("transform", name, TRANSFORMS_REGISTRY)(**options)


def get_transforms_by_cfg(cfg: Mapping[str, Any]) -> Callable:
    """The transform of a section."""
    return get_transforms(cfg["name"], **options_of(cfg))


def get_transforms_for_pretrained(weights: str) -> tuple[Callable, Callable]:
    """(the transform that OML tests these weights by, the reader that gives what it takes). Raises UnknownName."""
    transform = _transform_of(weights)
    return transform, get_im_reader_for_transforms(transform)


def _transform_of(weights: str) -> Callable:
    if weights in RESNETS or weights == WITH_MLP:
        return get_normalisation_resize_hypvit(im_size=256, crop_size=224)
    if weights in CLIPS:
        return get_normalisation_resize_albu_clip(im_size=224)
    if weights in UNICOMS:
        return get_unicom_transforms(UNICOMS[weights]["size"])
    if weights in IN_WHITE_SQUARES:
        return get_normalisation_resize_albu(im_size=224)
    if weights not in VITS:
        raise unknown_name("weights", weights, [*VITS, *RESNETS, *CLIPS, *UNICOMS, WITH_MLP])
    if VITS[weights].get("squashed"):
        return get_normalisation_resize_torch(im_size=224)
    return get_normalisation_resize_hypvit(im_size=224, crop_size=224)


__all__ = [
    "TRANSFORMS_ALBU",
    "TRANSFORMS_REGISTRY",
    "TRANSFORMS_TORCH",
    "get_transforms",
    "get_transforms_by_cfg",
    "get_transforms_for_pretrained",
]
