"""Backbones: networks that make feature maps, by name."""

from models.backbones.table import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone"]
