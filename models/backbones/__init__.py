"""Backbones by name: networks that make features of images. A file is a source of networks, imported below."""

# In this order messages list them.
from models.backbones import torchvision
from models.backbones import timm
from models.backbones import conv
from models.backbones import huggingface
from models.backbones import open_clip
from models.backbones import oml
from models.backbones._row import (
    BACKBONES,
    HALF,
    IMAGENET,
    OUTPUTS,
    PUBLISHED,
    Backbone,
    ImageInput,
    Wrapped,
    source_of,
    submodules_or_parameters,
)

__all__ = [
    "BACKBONES",
    "HALF",
    "IMAGENET",
    "OUTPUTS",
    "PUBLISHED",
    "Backbone",
    "ImageInput",
    "Wrapped",
    "conv",
    "huggingface",
    "oml",
    "open_clip",
    "source_of",
    "submodules_or_parameters",
    "timm",
    "torchvision",
]
