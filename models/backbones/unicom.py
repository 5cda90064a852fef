"""The vision transformer of UNICOM (arXiv 2304.05884): no class token, a projection of all patches at once."""

import torch
from torch import nn
from torch.nn import functional

from core.errors import InputError

EPSILON = 2e-5  # of its BatchNorms


class Unicom(nn.Module):
    """Pixels (B, 3, size, size) to embeddings (B, embedding_size), before any normalisation.

    Weights have the names of its authors' files.
    """

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, embedding_size: int) -> None:
        super().__init__()
        self.size = size
        count = (size // patch) ** 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, count, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(width * count, width, bias=False),
            nn.BatchNorm1d(width, eps=EPSILON),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=EPSILON),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.shape[2:] != (self.size, self.size):
            raise InputError(f"it takes {self.size}x{self.size} pixels alone, --image_shape=3,{self.size},{self.size}")
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        tokens = self.norm(self.blocks(patches + self.pos_embed))
        return self.feature(tokens.flatten(1))


class Block(nn.Module):
    """Attention and a perceptron with ReLU6, each behind a norm and beside the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Each token looks at all, through `heads` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.relu6(self.fc1(tokens)))
