"""Backbones by name (backbones.py) and the network that turns images into embeddings (embedder.py)."""

from models.backbones import BACKBONES
from models.embedder import Embedder
from models.pretrained import load_pretrained

__all__ = ["BACKBONES", "Embedder", "load_pretrained"]
