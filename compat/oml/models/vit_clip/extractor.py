"""OML's ViTCLIPExtractor."""

from pathlib import Path

from compat.oml.models._by_ours import ExtractorByOurs
from models.backbones.oml import CLIPS


class ViTCLIPExtractor(ExtractorByOurs):
    """The image towers of OpenAI's CLIP and Sber's ruCLIP."""

    constructors = {
        "vitb16_224": "openai_vitb16_224",
        "vitb32_224": "openai_vitb32_224",
        "vitl14_224": "openai_vitl14_224",
        "vitl14_336": "clip:ViT-L-14-336/openai",
    }
    pretrained_models = {
        key: {
            "url": row["origin"],
            "hash": row.get("md5", ""),
            "fname": f"{key}.ckpt",
            "init_args": {"arch": key.partition("_")[2], "normalise_features": False},
        }
        for key, row in CLIPS.items()
    }

    def __init__(
        self, weights: Path | str | None = None, arch: str = "vitb32_224", normalise_features: bool = True
    ) -> None:
        super().__init__(weights, arch, normalise_features)
        self.input_size = int(arch.rpartition("_")[2])


__all__ = ["ViTCLIPExtractor"]
