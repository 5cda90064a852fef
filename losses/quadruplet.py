"""Margin sample mining loss (Xiao et al., 2017, arXiv 1710.00478): one quadruplet of a batch counts."""

import torch
from torch import nn

from losses import LOSSES
from losses._shared import check_option, full_precision, masked_mean, pair_masks, squared_distances, unit


@LOSSES.register("quadruplet", stage="pair", batch="pk")
class QuadrupletLoss(nn.Module):
    """max(0, largest positive - smallest negative squared distance of the batch + margin), over unit vectors.

    Labels decide which rows are pairs, whatever the order of rows and however many images a label has.

    Options:
        margin: gap wanted between the two squared distances (0 to 4 on unit vectors)

    `logs` after a call: active_share (1 when the margin is violated, else 0), the two mined squared distances
    hardest_positive and hardest_negative, mean squared positive_distance and negative_distance.
    """

    def __init__(self, margin=0.1):
        super().__init__()
        check_option("margin", margin, 0)
        self.margin = margin
        self.logs = {}

    @full_precision
    def forward(self, embeddings, labels):
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        positives, negatives = pair_masks(labels)
        points = unit(embeddings)
        # Mined without a graph: only two of the B x B distances ever receive a gradient.
        with torch.no_grad():
            distances = squared_distances(points)
            farthest = distances.masked_fill(~positives, -torch.inf).argmax()
            nearest = distances.masked_fill(~negatives, torch.inf).argmin()
        mined = torch.stack([farthest, nearest])
        pairs = points[mined // len(points)] - points[mined % len(points)]
        hardest_positive, hardest_negative = pairs.square().sum(1)
        loss = torch.relu(hardest_positive - hardest_negative + self.margin)
        self.logs = {
            "active_share": (loss > 0).float(),
            "hardest_positive": hardest_positive.detach(),
            "hardest_negative": hardest_negative.detach(),
            "positive_distance": masked_mean(distances, positives),
            "negative_distance": masked_mean(distances, negatives),
        }
        return loss
