"""A network with a perceptron behind it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.ops import MLP

from compat.oml.interfaces.models import IExtractor, IFreezable
from core.errors import InputError
from models.plain_weights import flat_tensors, read_weights
from models.weights import load_pretrained

PROJECTION = "projection."  # begins the names of the perceptron's weights in a file, behind what a trainer puts there


class ExtractorWithMLP(IExtractor, IFreezable):
    """extractor, then linear layers of the widths mlp_features with ReLU between them.

    weights: a file of a whole network of this class. train_backbone: whether the extractor learns, too.
    """

    def __init__(
        self,
        extractor: IExtractor,
        mlp_features: Sequence[int],
        weights: Path | str | None = None,
        train_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.mlp_features = list(mlp_features)
        self.train_backbone = train_backbone
        self.projection = MLP(extractor.feat_dim, self.mlp_features)
        if weights is not None:
            self._load(weights)

    def _load(self, weights: Path | str) -> None:
        load_pretrained(self.extractor.model, weights)
        tensors = {}
        for name, tensor in flat_tensors(read_weights(weights)).items():
            before, found, own = name.rpartition(PROJECTION)
            if found and not before.endswith("_"):
                tensors[own] = tensor
        try:
            self.projection.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(
                f"{str(weights)!r} holds no such projection: {str(error).splitlines()[-1].strip()}"
            ) from None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, feat_dim)."""
        with torch.set_grad_enabled(self.train_backbone and torch.is_grad_enabled()):
            features = self.extractor(x)
        return self.projection(features)

    @property
    def feat_dim(self) -> int:
        return self.mlp_features[-1]

    def freeze(self) -> None:
        self.train_backbone = False

    def unfreeze(self) -> None:
        self.train_backbone = True


__all__ = ["ExtractorWithMLP"]
