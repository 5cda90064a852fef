"""The contrastive loss over pairs that were drawn before: the hello world of metric learning (docs/hello_mnist.md)."""

import torch

from core.errors import InputError
from losses._precision import full_precision
from losses._registry import LOSSES
from losses.contrastive import ContrastiveLoss


@LOSSES.register("siamese", stage="pair", batch="siamese_pairs")
class SiameseLoss(ContrastiveLoss):
    """Mean over rows (0, 1), (2, 3), … of t d² + (1 - t) max(0, margin - d² + eps)², where t is 1 for a pair of one label.

    d is the Euclidean distance of the raw embeddings (not scaled to unit length). `contrastive` is the same over all
    pairs of a batch.

    Options:
        margin: squared distance beyond which two labels cost nothing
        eps: added to what is short of the margin

    `logs` after a call: active_share (of the pairs of two labels, those within the margin), and the mean squared
    positive_distance and negative_distance; 0 where the batch has no such pair.
    """

    def __init__(self, margin: float = 1.0, eps: float = 1e-9) -> None:
        super().__init__(margin=margin, eps=eps)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError where B is odd."""
        if len(labels) % 2:
            raise InputError(f"{len(labels)} rows are no pairs; the siamese loss takes rows image, partner, image, …")
        first, second = embeddings[0::2], embeddings[1::2]
        is_same = labels[0::2] == labels[1::2]
        distances = (first - second).detach().square().sum(1)
        active = ~is_same & (distances < self.margin)
        self.logs = {
            "active_share": active.sum() / (~is_same).sum().clamp_min(1),
            "positive_distance": (is_same * distances).sum() / is_same.sum().clamp_min(1),
            "negative_distance": (~is_same * distances).sum() / (~is_same).sum().clamp_min(1),
        }
        return self.of_pairs(first, second, is_same)
