"""Backbones by name: networks that make features of images. A file is a source of networks, imported below."""

# In this order messages list them.
from models.backbones import torchvision
from models.backbones import timm
from models.backbones import conv
from models.backbones._row import BACKBONES, HALF, IMAGENET, OUTPUTS, Backbone, ImageInput

__all__ = ["BACKBONES", "HALF", "IMAGENET", "OUTPUTS", "Backbone", "ImageInput", "conv", "timm", "torchvision"]
