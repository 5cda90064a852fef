"""OML's ECAPATDNNExtractor."""

from pathlib import Path

import torch
from torch.nn import functional

from compat.oml._errors import RefusedAssertion, require
from compat.oml.interfaces.models import IExtractor
from core.console import log
from core.errors import unknown
from models.backbones import PUBLISHED
from models.backbones.ecapa import MD5, NAME, ORIGIN
from models.embedder import Embedder
from models.weights import load_pretrained


class ECAPATDNNExtractor(IExtractor):
    """Sounds at 16,000 samples a second to 192 numbers. weights: a key of `pretrained_models`, a file, or None."""

    constructors = {NAME: NAME}
    pretrained_models = {
        NAME: {
            "url": ORIGIN,
            "hash": MD5,
            "fname": f"{NAME}.pth",
            "init_args": {"arch": NAME, "normalise_features": False},
        }
    }

    def __init__(self, weights: Path | str | None = None, arch: str = NAME, normalise_features: bool = False) -> None:
        super().__init__()
        if arch not in self.constructors:
            raise RefusedAssertion(str(unknown("architecture of ECAPATDNNExtractor", arch, self.constructors)))
        self.normalise_features = normalise_features
        is_published = str(weights) in self.pretrained_models
        self.model = Embedder(arch, weights=PUBLISHED if is_published else None)
        if weights is not None and not is_published:
            for note in load_pretrained(self.model, weights):
                log(f"{weights}: {note}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, 192) of samples (B, n) or (B, 1, n)."""
        is_one_channel = x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 1)
        require(is_one_channel, f"sounds are (B, n) or (B, 1, n), not {tuple(x.shape)}")
        features = self.model(x.flatten(1))
        return functional.normalize(features) if self.normalise_features else features

    @property
    def feat_dim(self) -> int:
        return self.model.embedding_size


__all__ = ["ECAPATDNNExtractor"]
