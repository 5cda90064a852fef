"""OML's pairwise networks, by the pair scorers of this repository."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compat.oml.interfaces.models import IExtractor, IFreezable, IPairwiseModel
from compat.oml.models.vit_dino.extractor import ViTExtractor
from core.errors import InputError
from models.pair_scorer import ConcatSiamese as OnePicture
from models.pair_scorer import LinearSiamese, PairScorer
from models.pair_scorer import TrivialDistanceSiamese as TrivialDistance
from models.plain_weights import read_weights


class _AsThere(IPairwiseModel, IFreezable):
    """`scorer`: the PairScorer that does it. use_tta: in `predict` the mean of both orders."""

    scorer: PairScorer
    use_tta = False

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """What a loss takes, (B,), of two inputs (B, ...)."""
        return self.scorer(x1, x2)

    def predict(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """Distances (B,)."""
        distances = self.scorer.as_distances(self(x1, x2))
        if self.use_tta:
            distances = (distances + self.scorer.as_distances(self(x2, x1))) / 2
        return distances

    @property
    def extractor(self) -> nn.Module:
        """The network in front."""
        return self.scorer.embedder

    @property
    def train_backbone(self) -> bool:
        """Whether that network learns."""
        return any(weight.requires_grad for weight in self.extractor.parameters())

    def freeze(self) -> None:
        self.extractor.requires_grad_(False)

    def unfreeze(self) -> None:
        self.extractor.requires_grad_(True)


class ConcatSiamese(_AsThere):
    """Both images as one picture, the second below the first, by `extractor`, then layers of widths mlp_hidden_dims.

    weights: a file of such a network's state dict.
    """

    def __init__(
        self,
        extractor: IExtractor | None = None,
        mlp_hidden_dims: Sequence[int] = (),
        use_tta: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        super().__init__()
        extractor = ViTExtractor() if extractor is None else extractor
        self.scorer = OnePicture(extractor, tuple(mlp_hidden_dims))
        self.use_tta = use_tta
        if weights is not None:
            self._load(weights)

    def _load(self, weights: Path | str) -> None:
        content = read_weights(weights)
        try:
            self.load_state_dict(content.get("state_dict", content))
        except RuntimeError as error:
            raise InputError(f"{str(weights)!r} holds no such network: {str(error).splitlines()[-1].strip()}") from None


class LinearTrivialDistanceSiamese(_AsThere):
    """The distance of two embeddings (B, feat_dim) behind a matrix, plus output_bias."""

    def __init__(self, feat_dim: int, identity_init: bool, output_bias: float = 0) -> None:
        super().__init__()
        self.feat_dim = feat_dim
        self.scorer = LinearSiamese(_EmbeddingsThemselves(feat_dim), identity_init, output_bias, unit_length=False)
        # It is no weight there.
        self.scorer.output_bias.requires_grad_(False)


class TrivialDistanceSiamese(_AsThere):
    """The distance of the embeddings that `extractor` makes, plus output_bias."""

    def __init__(self, extractor: IExtractor, output_bias: float = 0) -> None:
        super().__init__()
        self.scorer = TrivialDistance(extractor, output_bias, unit_length=False)


class _EmbeddingsThemselves(nn.Identity):
    """In the place of a network where inputs are embeddings."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size


__all__ = ["ConcatSiamese", "LinearTrivialDistanceSiamese", "TrivialDistanceSiamese"]
