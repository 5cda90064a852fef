"""What OML makes by albumentations: the same geometry by torchvision."""

from compat.oml.transforms.images.torchvision import (
    get_normalisation_resize_albu,
    get_normalisation_resize_albu_clip,
)
from compat.oml.transforms.images.torchvision import get_normalisation_torch as get_normalisation_albu

__all__ = ["get_normalisation_albu", "get_normalisation_resize_albu", "get_normalisation_resize_albu_clip"]
