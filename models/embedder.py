"""The network: uint8 images in, embeddings out (backbone, pooling, optional linear layer)."""

from typing import Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import InputError, unknown
from models.backbones import BACKBONES
from models.pooling import POOLINGS, Pooling


class Embedder(nn.Module):
    """Images to embeddings, not normalised: the losses and the retrieval normalise where their formulas say so.

    model: a name of BACKBONES.
    embedding_size: 0 for the pooled feature itself, else the width of a linear layer behind it.
    pooling: one of POOLINGS; a backbone that gives a vector has nothing to pool, and takes "avg" only.
    weights: a name of pre-trained weights that the backbone has, such as imagenet; None for random ones.
    freeze_bn: keep every BatchNorm at its stored statistics, weight and bias.
    freeze_stages: so many of the backbone's first stages are left as they are.

    `facts` says what the network is, for files that hold its weights. Raises InputError for an unknown name or more
    stages than the backbone has.
    """

    def __init__(
        self,
        model: str,
        embedding_size: int = 0,
        pooling: str = "avg",
        *,
        weights: str | None = None,
        freeze_bn: bool = False,
        freeze_stages: int = 0,
    ) -> None:
        super().__init__()
        row = BACKBONES[model](model)
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        gives_vector = BACKBONES.fact(model, "output") == "vector"
        if gives_vector and pooling != "avg":
            raise InputError(f"pooling is {pooling}, but {model} gives one vector an image, which is not pooled")
        if embedding_size < 0:
            raise InputError(f"embedding_size is {embedding_size}; it is 0 (the pooled feature) or a width")
        if not 0 <= freeze_stages <= len(row.stages):
            raise InputError(f"freeze_stages is {freeze_stages}; {model} has {len(row.stages)} stages")
        if weights is not None and weights not in BACKBONES.fact(model, "weights"):
            raise unknown(f"weights of {model}", weights, BACKBONES.fact(model, "weights"))

        self.facts = {"model": model, "embedding_size": embedding_size, "pooling": pooling}
        self.embedding_size = embedding_size or row.width
        self.backbone = row.build(weights)
        self.pooling = nn.Identity() if gives_vector else Pooling(pooling)
        self.head = nn.Linear(row.width, embedding_size) if embedding_size else nn.Identity()
        # For pixels of 0 to 255. Not among the weights: they belong to the backbone's name.
        self.register_buffer("mean", 255 * torch.tensor(row.preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(row.preprocess.std).view(3, 1, 1), persistent=False)

        self.frozen = [self.backbone.get_submodule(name) for stage in row.stages[:freeze_stages] for name in stage]
        if freeze_bn:
            self.frozen += [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        for module in self.frozen:
            module.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, 3, H, W), RGB -> embeddings (B, embedding_size)."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        return self.head(self.pooling(self.backbone(pixels)))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # A frozen module stays in evaluation mode, or BatchNorm's statistics would move.
        for module in self.frozen:
            module.eval()
        return self
