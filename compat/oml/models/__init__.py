"""OML's networks: backbones of this repository that take what OML's transforms give."""

from compat.oml.models.extractors import ResnetExtractor, ViTCLIPExtractor, ViTExtractor, ViTUnicomExtractor
from compat.oml.models.projection import ExtractorWithMLP
from compat.oml.models.texts import HFWrapper

__all__ = [
    "ExtractorWithMLP",
    "HFWrapper",
    "ResnetExtractor",
    "ViTCLIPExtractor",
    "ViTExtractor",
    "ViTUnicomExtractor",
]
