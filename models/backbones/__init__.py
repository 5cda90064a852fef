"""Backbones by name: networks that make features of images, texts or sounds. A file is a source of networks."""

# In this order messages list them.
from models.backbones import torchvision
from models.backbones import timm
from models.backbones import conv
from models.backbones import huggingface
from models.backbones import open_clip
from models.backbones import oml
from models.backbones import hf_text
from models.backbones import hashed_ngrams
from models.backbones import log_mel_conv
from models.backbones import resemblyzer
from models.backbones import ecapa
from models.backbones._row import (
    BACKBONES,
    HALF,
    IMAGENET,
    MODALITIES,
    OUTPUTS,
    PUBLISHED,
    AudioInput,
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
    "AudioInput",
    "Backbone",
    "ImageInput",
    "TextInput",
    "Wrapped",
    "conv",
    "ecapa",
    "hashed_ngrams",
    "hf_text",
    "huggingface",
    "log_mel_conv",
    "oml",
    "open_clip",
    "resemblyzer",
    "source_of",
    "submodules_or_parameters",
    "timm",
    "torchvision",
]
