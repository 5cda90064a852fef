"""OML's networks: backbones of this repository that take what OML's transforms give."""

from compat.oml.models.extractors import ResnetExtractor, ViTCLIPExtractor, ViTExtractor, ViTUnicomExtractor
from compat.oml.models.projection import ExtractorWithMLP
from compat.oml.models.siamese import ConcatSiamese, LinearTrivialDistanceSiamese, TrivialDistanceSiamese
from compat.oml.models.texts import HFWrapper

__all__ = [
    "ConcatSiamese",
    "ExtractorWithMLP",
    "HFWrapper",
    "LinearTrivialDistanceSiamese",
    "ResnetExtractor",
    "TrivialDistanceSiamese",
    "ViTCLIPExtractor",
    "ViTExtractor",
    "ViTUnicomExtractor",
]
