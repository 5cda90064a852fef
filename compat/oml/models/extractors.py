"""OML's networks of images, by its names of architectures and weights."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from compat.oml import const
from compat.oml._errors import RefusedAssertion
from compat.oml.interfaces.models import IExtractor
from core.console import log
from core.errors import InputError, unknown
from embeddings.attention import Look
from models.attention import AttentionMaps
from models.backbones import BACKBONES, PUBLISHED
from models.backbones.oml import CLIPS, RESNETS, UNICOMS, VITS
from models.embedder import Embedder
from models.recompute import recompute_stages
from models.weights import load_pretrained
from report.attention import overlay

ONE_SCALE = (1.0,)
THREE_SCALES = (1.0, 2**-0.5, 0.5)  # DINO's


class ExtractorByOurs(IExtractor):
    """Normalised images (B, 3, H, W) float, as a transform gives them, to embeddings.

    `model` is the Embedder (models/embedder.py), of which pixels are normalised in front. constructors: {OML's name of
    an architecture: the name of the backbone here}.
    """

    constructors: dict[str, str] = {}

    def __init__(
        self,
        weights: Path | str | None,
        arch: str,
        normalise_features: bool,
        pooling: str | None = None,
        test_scales: tuple[float, ...] = ONE_SCALE,
    ) -> None:
        super().__init__()
        if arch not in self.constructors:
            raise RefusedAssertion(str(unknown(f"architecture of {type(self).__name__}", arch, self.constructors)))
        self.arch = arch
        self.normalise_features = normalise_features
        key = self._key_of(weights)
        name = key or self.constructors[arch]
        if pooling is None:
            pooling = BACKBONES[name](name).pooling if BACKBONES.fact(name, "output") != "vector" else "avg"
        published = PUBLISHED if key else None
        self.model = Embedder(name, pooling=pooling, weights=published, test_scales=test_scales)
        if weights is not None and key is None:
            for note in load_pretrained(self.model, weights):
                log(f"{weights}: {note}")

    def _key_of(self, weights: Path | str | None) -> str | None:
        """The key of published weights that is meant; None for a file, and for none."""
        if str(weights) in self.pretrained_models:
            return str(weights)
        if weights is None or Path(weights).is_file():
            return None
        # OML keeps a download under the key's name.
        file = Path(weights)
        if file.parent == const.CKPT_SAVE_ROOT and file.stem in self.pretrained_models:
            return file.stem
        if len(file.parts) == 1 and not file.suffix:
            raise unknown(f"weights of {type(self).__name__}", weights, self.pretrained_models)
        raise InputError(f"weights: no file {str(weights)!r}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, feat_dim) of x (B, 3, H, W)."""
        if self.training or self.model.test_scales == ONE_SCALE:
            features = self.model.pooled(x)
        else:
            features = self.model.pooled_at_scales(x)
        if self.normalise_features:
            features = functional.normalize(features)
        return features

    @property
    def feat_dim(self) -> int:
        return self.model.embedding_size

    def _draw_look(self, image: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """An image (H, W, 3) uint8 with the places in colours that its embedding comes of, of the kind given."""
        pixels = np.asarray(image)
        height, width = (side - side % self.model.patch for side in pixels.shape[:2])
        seen = torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)[None]
        was_training = self.training
        self.eval()
        with torch.no_grad():
            target = self.model(seen.to(self.model.mean.device))
        heat = AttentionMaps(self.model, (3, height, width)).of(seen, target)[0].numpy()
        self.train(was_training)
        drawn = overlay(pixels, Look(heat, (0, 0, width, height)))
        return drawn if isinstance(image, np.ndarray) else Image.fromarray(drawn)


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


class ViTUnicomExtractor(ExtractorByOurs):
    """UNICOM's vision transformers. use_gradient_ckpt: less memory in training, for more time."""

    constructors = {key: key for key in UNICOMS}
    pretrained_models = {
        key: {
            "url": row["origin"],
            "hash": row["sha256"],
            "fname": f"{key}.ckpt",
            "init_args": {"arch": key, "normalise_features": True},
        }
        for key, row in UNICOMS.items()
    }

    def __init__(
        self,
        weights: Path | str | None = None,
        arch: str = "vitb32_unicom",
        normalise_features: bool = True,
        use_gradient_ckpt: bool = True,
    ) -> None:
        super().__init__(weights, arch, normalise_features)
        if use_gradient_ckpt:
            recompute_stages(self.model)


__all__ = ["ResnetExtractor", "ViTCLIPExtractor", "ViTExtractor", "ViTUnicomExtractor"]
