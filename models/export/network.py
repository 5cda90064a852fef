"""What is exported: a network as others use it, on the CPU and in evaluation mode."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.embedder import Embedder
from models.low_rank import merged


@dataclass(frozen=True)
class Crop:
    """The test geometry, in pixels: short side to `short_side`, the centre crop of `height` x `width`; of an image
    whose long side is more than `longest` times the short one the ends are cut off before.

    resize_filter: area (OpenCV's, bicubic where a side grows), bilinear or bicubic (Pillow's), linear (OpenCV's).
    resize_mode: crop; squash, where both sides come to what the crop is cut from, and no ends are cut off; or pad,
    where an image fits into that, with white around it.
    """

    height: int
    width: int
    short_side: int
    longest: float
    resize_filter: str = "area"
    resize_mode: str = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, height, width)."""
        return 3, self.height, self.width


class ExportedNetwork(nn.Module):
    """A copy of an Embedder: uint8 crops (B, 3, height, width) to embeddings (B, D), at length 1 with `normalises`."""

    def __init__(self, embedder: Embedder, normalises: bool = False) -> None:
        super().__init__()
        self.embedder = merged(copy.deepcopy(embedder).cpu()).requires_grad_(False)
        self.normalises = normalises
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embeddings = self.embedder(images).float()
        if self.normalises:
            embeddings = F.normalize(embeddings)
        return embeddings


def example_crops(shape: tuple[int, int, int], count: int = 2) -> torch.Tensor:
    """A batch of made-up crops (count, 3, height, width), to trace with: no two of them are alike, nor are pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
