"""What a sampler of batches is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator


class IBatchSampler(ABC):
    """Gives the batches of an epoch, lists of numbers of items."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch."""

    @abstractmethod
    def __iter__(self) -> Iterator[list[int]]:
        """The batches of one epoch."""


__all__ = ["IBatchSampler"]
