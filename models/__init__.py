"""Backbones by name (backbones.py), the network from images to embeddings (embedder.py), faster copies (fast.py)."""

from models.backbones.table import BACKBONES
from models.embedder import Embedder
from models.fast import RUNTIMES, fast_model
from models.weights import load_pretrained

__all__ = ["BACKBONES", "RUNTIMES", "Embedder", "fast_model", "load_pretrained"]
