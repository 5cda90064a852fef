"""The contrastive loss over pairs that a sampler drew: the hello world of metric learning (docs/hello_mnist.md)."""

import torch

from core.errors import InputError
from core.text import counted, plural
from losses._precision import full_precision
from losses._registry import LOSSES
from losses.contrastive import ContrastiveLoss


@LOSSES.register("siamese", stage="pair", batch="siamese_pairs")
class SiameseLoss(ContrastiveLoss):
    """Mean over the pairs (0, 1), (2, 3), … of d² for two rows of one label, max(0, margin - d² + eps)² for others.

    d is the Euclidean distance of the raw embeddings. `contrastive` is the same over all pairs of a batch.

    Options:
        margin: squared distance beyond which two labels cost nothing
        eps: small number added within the hinge
        normalise: scale the embeddings to unit length first

    `logs` after a call: active_share (pairs of two labels within the margin), mean squared positive_distance and
    negative_distance; 0 where the batch has no such pair.
    """

    def __init__(self, margin: float = 1.0, eps: float = 1e-9, normalise: bool = False) -> None:
        super().__init__(margin, eps, normalise)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError where B is odd."""
        if len(labels) % 2:
            raise InputError(
                f"{counted(len(labels), 'row')} {plural(len(labels), 'is no pair', 'are no pairs')}; the siamese loss "
                "takes rows image, partner, image, …"
            )
        return self.of_pairs(embeddings[0::2], embeddings[1::2], labels[0::2] == labels[1::2])
