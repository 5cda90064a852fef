"""Labels as shares of classes."""

import torch
from torch.nn import functional

from compat.oml._errors import require


@torch.no_grad()
def label_smoothing(
    y: torch.Tensor, num_classes: int, epsilon: float = 0.2, categories: torch.Tensor | None = None
) -> torch.Tensor:
    """Labels (B,) to rows (B, num_classes) that add up to 1: epsilon of each is shared among all labels, or, with the
    category of each label (num_classes,), among those of its category.
    """
    require(epsilon < 1, f"epsilon is {epsilon}; it is below 1")
    is_shared = torch.ones(len(y), num_classes, device=y.device)
    if categories is not None:
        is_shared = (categories[y][:, None] == categories).float()
    whole = functional.one_hot(y, num_classes).float()
    return (1 - epsilon) * whole + epsilon * is_shared / is_shared.sum(1, keepdim=True)


__all__ = ["label_smoothing"]
