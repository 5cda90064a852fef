"""Backbones by name: networks that make features of images or of texts. A file is a source of networks, imported below."""

# In this order messages list them.
from models.backbones import torchvision
from models.backbones import timm
from models.backbones import conv
from models.backbones import hashed_ngrams
from models.backbones import hf_text
from models.backbones._row import BACKBONES, HALF, IMAGENET, MODALITIES, OUTPUTS, Backbone, ImageInput, TextInput

__all__ = [
    "BACKBONES",
    "HALF",
    "IMAGENET",
    "MODALITIES",
    "OUTPUTS",
    "Backbone",
    "ImageInput",
    "TextInput",
    "conv",
    "hashed_ngrams",
    "hf_text",
    "timm",
    "torchvision",
]
