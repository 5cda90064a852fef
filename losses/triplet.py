"""Triplet loss on ready-made triplets (Schroff et al., FaceNet, 2015, arXiv 1503.03832, section 3.1)."""

import torch
from torch import nn

from core.errors import InputError
from core.text import counted
from losses._checks import check_option
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("triplet", stage="pair", batch="triplet")
class TripletLoss(nn.Module):
    """Mean of max(0, |a - p|^2 - |a - n|^2 + margin) over unit vectors, rows being a, p, n, a, p, n, ...

    Options:
        margin: gap wanted between the two squared distances (0 to 4 on unit vectors)

    `logs` after a call: active_share of the triplets, mean squared positive_distance and negative_distance.
    """

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        check_option("margin", margin, 0)
        self.margin = margin
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError unless rows are triplets in order."""
        check_triplets(labels)
        anchors, positives, negatives = normalise(embeddings).unflatten(0, (-1, 3)).unbind(1)
        positive_distances = (anchors - positives).square().sum(1)
        negative_distances = (anchors - negatives).square().sum(1)
        losses = torch.relu(positive_distances - negative_distances + self.margin)
        self.logs = {
            "active_share": (losses > 0).float().mean(),
            "positive_distance": positive_distances.detach().mean(),
            "negative_distance": negative_distances.detach().mean(),
        }
        return losses.mean()


def check_triplets(labels: torch.Tensor) -> None:
    """Raise InputError unless labels (B,) read x, x, y in every three rows, y being another label than x.

    Off the CPU only their number is looked at: reading labels back would stall the device in every step.
    """
    if len(labels) % 3:
        raise InputError(f"a batch of {counted(len(labels), 'row')} cannot be triplets: it has to be divisible by 3")
    anchor, positive, negative = labels.view(-1, 3).unbind(1)
    wrong = (anchor != positive) | (anchor == negative)
    if labels.device.type == "cpu" and wrong.any():
        first = 3 * wrong.int().argmax().item()
        raise InputError(
            f"rows {first}..{first + 2} have labels {labels[first : first + 3].tolist()}; "
            "the triplet loss wants anchor, positive (same label), negative (another label)"
        )
