"""A batch of (image, text) pairs, as loaders make it and networks with a tower for each take it."""

from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class ImageTextBatch:
    """images (P, 3, H, W) uint8 and texts (P, N) int64 of P pairs. Moves, splits and counts as a tensor of P rows."""

    images: torch.Tensor
    texts: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        images = self.images.to(device, non_blocking=non_blocking)
        return type(self)(images, self.texts.to(device, non_blocking=non_blocking))

    def split(self, size: int) -> list[Self]:
        """Batches of `size` pairs, the last of what is left."""
        return [type(self)(*parts) for parts in zip(self.images.split(size), self.texts.split(size), strict=True)]

    def pin_memory(self) -> Self:
        """For DataLoader, which asks whatever it does not know."""
        return type(self)(self.images.pin_memory(), self.texts.pin_memory())
