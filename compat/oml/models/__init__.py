"""OML's networks: backbones of this repository that take what OML's transforms give."""

from compat.oml.models.audio.ecapa_tdnn.extractor import ECAPATDNNExtractor
from compat.oml.models.meta.projection import ExtractorWithMLP
from compat.oml.models.meta.siamese import ConcatSiamese, LinearTrivialDistanceSiamese, TrivialDistanceSiamese
from compat.oml.models.resnet.extractor import ResnetExtractor
from compat.oml.models.texts.huggingface import HFWrapper
from compat.oml.models.vit_clip.extractor import ViTCLIPExtractor
from compat.oml.models.vit_dino.extractor import ViTExtractor
from compat.oml.models.vit_unicom.extractor import ViTUnicomExtractor

__all__ = [
    "ConcatSiamese",
    "ECAPATDNNExtractor",
    "ExtractorWithMLP",
    "HFWrapper",
    "LinearTrivialDistanceSiamese",
    "ResnetExtractor",
    "TrivialDistanceSiamese",
    "ViTCLIPExtractor",
    "ViTExtractor",
    "ViTUnicomExtractor",
]
