"""Backbones by name: networks that make features of images or texts. A file is a source of networks, imported below."""

# In this order messages list them.
from models.backbones import torchvision
from models.backbones import timm
from models.backbones import conv
from models.backbones import huggingface
from models.backbones import open_clip
from models.backbones import oml
from models.backbones import hf_text
from models.backbones import hashed_ngrams
from models.backbones._row import (
    BACKBONES,
    HALF,
    IMAGENET,
    MODALITIES,
    OUTPUTS,
    PUBLISHED,
    Backbone,
    ImageInput,
    TextInput,
    Wrapped,
    source_of,
    submodules_or_parameters,
)

__all__ = [
    "BACKBONES",
    "HALF",
    "IMAGENET",
    "MODALITIES",
    "OUTPUTS",
    "PUBLISHED",
    "Backbone",
    "ImageInput",
    "TextInput",
    "Wrapped",
    "conv",
    "hashed_ngrams",
    "hf_text",
    "huggingface",
    "oml",
    "open_clip",
    "source_of",
    "submodules_or_parameters",
    "timm",
    "torchvision",
]
