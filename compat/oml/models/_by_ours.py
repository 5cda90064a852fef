"""What OML's networks of images have alike: names of architectures and of weights."""

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
from models.embedder import Embedder
from models.weights import load_pretrained
from report.attention import overlay

ONE_SCALE = (1.0,)


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
