"""What a metric that is gathered over batches is asked for."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from compat.oml.const import OVERALL_CATEGORIES_KEY

TIndices = torch.Tensor | list[int]


class IBasicMetric(ABC):
    """Set up, fed with batches, computed."""

    metric_name = "BASE"
    overall_categories_key = OVERALL_CATEGORIES_KEY

    @abstractmethod
    def setup(self, *sizes: Any, **named: Any) -> Any:
        """Before the first batch."""

    @abstractmethod
    def update_data(self, data: dict[str, Any], indices: TIndices) -> None:
        """A batch, and which items of the dataset it is."""

    @abstractmethod
    def compute_metrics(self) -> dict[str, Any]:
        """{OVERALL: figures, category: figures, ...}."""


class IMetricVisualisable(IBasicMetric):
    """A metric that can be shown."""

    @abstractmethod
    def visualize(self) -> tuple[list[Any], list[str]]:
        """Figures and their titles."""

    @abstractmethod
    def ready_to_visualize(self) -> bool:
        """Whether `visualize` can be called."""


__all__ = ["IBasicMetric", "IMetricVisualisable", "TIndices"]
