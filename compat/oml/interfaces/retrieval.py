"""What a post-processor is asked for."""

from abc import ABC, abstractmethod
from typing import Any


class IRetrievalPostprocessor(ABC):
    """Makes other results of results."""

    @abstractmethod
    def process(self, *results: Any, **named: Any) -> Any:
        """Results after it."""


__all__ = ["IRetrievalPostprocessor"]
