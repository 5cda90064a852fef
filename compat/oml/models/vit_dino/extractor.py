"""OML's ViTExtractor."""

from pathlib import Path

import numpy as np
from PIL import Image

from compat.oml.models._by_ours import ONE_SCALE, ExtractorByOurs
from models.backbones.oml import VITS

THREE_SCALES = (1.0, 2**-0.5, 0.5)  # DINO's


class ViTExtractor(ExtractorByOurs):
    """DINO's and DINOv2's vision transformers; the class token is the embedding.

    weights: a key of `pretrained_models`, a file, or None for random ones. use_multi_scale: in evaluation the mean over
    three scales.
    """

    constructors = {
        "vits8": "vits8_dino",
        "vits16": "vits16_dino",
        "vitb8": "vitb8_dino",
        "vitb16": "vitb16_dino",
        "vits14": "vits14_dinov2",
        "vitb14": "vitb14_dinov2",
        "vitl14": "vitl14_dinov2",
        "vits14_reg": "vits14_reg_dinov2",
        "vitb14_reg": "vitb14_reg_dinov2",
        "vitl14_reg": "vitl14_reg_dinov2",
    }
    pretrained_models = {
        key: {
            "url": row["origin"],
            "hash": row["md5"],
            "fname": f"{key}.ckpt",
            "init_args": {
                "arch": key.rpartition("_")[0],
                # Only SOP's were trained so.
                "normalise_features": key == "vits16_sop",
            },
        }
        for key, row in VITS.items()
    }

    def __init__(
        self,
        weights: Path | str | None = None,
        arch: str = "vits16",
        normalise_features: bool = False,
        use_multi_scale: bool = False,
    ) -> None:
        scales = THREE_SCALES if use_multi_scale else ONE_SCALE
        super().__init__(weights, arch, normalise_features, test_scales=scales)
        self.mscale = use_multi_scale

    def draw_attention(self, image: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """An image with the places that attention goes to, in colours."""
        return self._draw_look(image)


__all__ = ["ViTExtractor"]
