"""OML's ResnetExtractor."""

from pathlib import Path

import numpy as np
from PIL import Image

from compat.oml.models._by_ours import ExtractorByOurs
from core.errors import InputError
from models.backbones.oml import RESNETS


class ResnetExtractor(ExtractorByOurs):
    """torchvision's ResNets. gem_p: exponent of the generalised mean that pools; None: the mean.

    There is no classifier behind it: remove_fc is True.
    """

    constructors = {
        "resnet18": "resnet18_imagenet1k_v1",
        "resnet34": "resnet34_imagenet1k_v1",
        "resnet50": "resnet50_imagenet1k_v1",
        "resnet50_projector": "resnet50_moco_v2",
        "resnet101": "resnet101_imagenet1k_v1",
        "resnet152": "resnet152_imagenet1k_v1",
    }
    pretrained_models = {
        key: {
            "url": row["origin"],
            "hash": row.get("md5", ""),
            "fname": f"{key}.ckpt",
            "init_args": {
                "arch": "resnet50_projector" if key == "resnet50_moco_v2" else key.partition("_")[0],
                "gem_p": 5.0 if key == "resnet50_moco_v2" else None,
                "remove_fc": True,
                "normalise_features": False,
            },
        }
        for key, row in RESNETS.items()
    }

    def __init__(
        self,
        weights: Path | str | None = None,
        arch: str = "resnet50",
        gem_p: float | None = None,
        remove_fc: bool = True,
        normalise_features: bool = False,
    ) -> None:
        if not remove_fc:
            raise InputError("remove_fc is False, but a network for embeddings has no classifier here; leave it out")
        super().__init__(weights, arch, normalise_features, pooling="avg" if gem_p is None else "gem")
        self.gem_p = gem_p
        self.remove_fc = remove_fc
        if gem_p is not None:
            # It stays what it is, as there.
            self.model.pooling.p.data.fill_(gem_p)
            self.model.pooling.p.requires_grad_(False)

    def draw_gradcam(self, image: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """An image with the places that its embedding comes of, in colours (Grad-CAM)."""
        return self._draw_look(image)


__all__ = ["ResnetExtractor"]
