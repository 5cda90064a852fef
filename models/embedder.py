"""The network: uint8 images in, embeddings out (backbone, pooling, optional linear layer)."""

import torch
from torch import nn

from core.errors import InputError, near_match
from models.backbones.table import BACKBONES
from models.pooling import POOLINGS, Pooling


class Embedder(nn.Module):
    """Images to embeddings, not normalised: the losses and the retrieval normalise where their formulas say so.

    model: a name of BACKBONES.
    embedding_size: 0 for the pooled feature itself, else the width of a linear layer behind it.
    pooling: one of POOLINGS.
    freeze_bn: keep every BatchNorm at its stored statistics, weight and bias.
    freeze_stages: so many of the backbone's first stages are left as they are.
    imagenet: start from ImageNet weights.

    Raises InputError for an unknown name or more stages than the backbone has.
    """

    def __init__(self, model, embedding_size=0, pooling="avg", freeze_bn=False, freeze_stages=0, imagenet=False):
        super().__init__()
        if model not in BACKBONES:
            raise InputError(
                f"unknown model {model!r}; there are: {', '.join(BACKBONES)}.{near_match(model, BACKBONES)}"
            )
        if pooling not in POOLINGS:
            raise InputError(
                f"unknown pooling {pooling!r}; there are: {', '.join(POOLINGS)}.{near_match(pooling, POOLINGS)}"
            )
        if embedding_size < 0:
            raise InputError(f"embedding_size is {embedding_size}; it is 0 (the pooled feature) or a width")
        row = BACKBONES[model]
        if not 0 <= freeze_stages <= len(row.stages):
            raise InputError(f"freeze_stages is {freeze_stages}; {model} has {len(row.stages)} stages")
        self.facts = {"model": model, "embedding_size": embedding_size, "pooling": pooling}
        self.embedding_size = embedding_size or row.width
        self.backbone = row.build(imagenet)
        self.pooling = Pooling(pooling)
        self.head = nn.Linear(row.width, embedding_size) if embedding_size else nn.Identity()
        for name, value in (("mean", row.mean), ("std", row.std)):
            self.register_buffer(name, 255 * torch.tensor(value).view(3, 1, 1), persistent=False)
        self.frozen = [self.backbone.get_submodule(n) for names in row.stages[:freeze_stages] for n in names]
        if freeze_bn:
            self.frozen += [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in self.frozen:
            module.requires_grad_(False)

    def forward(self, images):
        """uint8 images (B, 3, H, W), RGB -> embeddings (B, embedding_size)."""
        maps = self.backbone((images.to(self.mean.dtype) - self.mean) / self.std)
        return self.head(self.pooling(maps))

    def train(self, mode=True):
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self
