"""Batches of pairs, as networks take them: of images with texts, and of inputs that are compared."""

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


@dataclass(frozen=True)
class InputPairs:
    """P pairs among U inputs, each of which is held once: pair i is inputs[first[i]] with inputs[second[i]].

    inputs (U, ...): images, texts or sounds as a loader makes them. first, second (P,): int64. Moves, splits and counts
    as a tensor of P rows.
    """

    inputs: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        columns = (self.inputs, self.first, self.second)
        return type(self)(*(column.to(device, non_blocking=non_blocking) for column in columns))

    def split(self, size: int) -> list[Self]:
        """Batches of `size` pairs, the last of what is left, each with the inputs that it needs."""
        parts = []
        for first, second in zip(self.first.split(size), self.second.split(size), strict=True):
            needed, places = torch.cat([first, second]).unique(return_inverse=True)
            parts.append(type(self)(self.inputs[needed], *places.split(len(first))))
        return parts

    def swapped(self) -> Self:
        """The same pairs, the second input first."""
        return type(self)(self.inputs, self.second, self.first)
