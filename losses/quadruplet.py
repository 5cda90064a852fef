"""Margin sample mining loss (Xiao et al., 2017, arXiv 1710.00478): one quadruplet of a batch counts."""

import torch
from torch import nn

from losses._checks import check_option
from losses._pair_distances import centred, check_pairs, distance_blocks, pair_counts
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("quadruplet", stage="pair", batch="pk")
class QuadrupletLoss(nn.Module):
    """max(0, largest positive - smallest negative squared distance of the batch + margin), over unit vectors.

    Labels decide which rows are pairs, whatever the order of rows and however many images a label has.

    Options:
        margin: gap wanted between the two squared distances (0 to 4 on unit vectors)

    `logs` after a call: active_share (1 when the margin is violated, else 0), the two mined squared distances
    hardest_positive and hardest_negative, mean squared positive_distance and negative_distance.
    """

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        check_option("margin", margin, 0)
        self.margin = margin
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        check_pairs(labels)
        positives, negatives = pair_counts(labels)
        points = normalise(embeddings)
        # Mined without a graph: only two of the B x B distances ever receive a gradient.
        mined, positive_sum, negative_sum = hardest_pairs(points.detach(), labels)
        pairs = points[mined[:, 0]] - points[mined[:, 1]]
        hardest_positive, hardest_negative = pairs.square().sum(1)
        loss = torch.relu(hardest_positive - hardest_negative + self.margin)
        self.logs = {
            "active_share": (loss > 0).float(),
            "hardest_positive": hardest_positive.detach(),
            "hardest_negative": hardest_negative.detach(),
            "positive_distance": positive_sum / positives.sum(),
            "negative_distance": negative_sum / negatives.sum(),
        }
        return loss


def hardest_pairs(points: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of points (B, D): rows (2, 2) of the farthest positive pair and of the nearest negative pair; sums of the squared
    distances of all positive and of all negative pairs."""
    points = centred(points)
    # Row 0 of both tables is about positives, row 1 about negatives, whose distances are negated: the largest wins.
    best = points.new_empty(2, len(points))
    partner = labels.new_empty(2, len(points))
    positive_sum = 0
    negative_sum = 0
    for rows, distances, positives, negatives in distance_blocks(points, labels):
        far = torch.where(positives, distances, -torch.inf)
        positive_sum = positive_sum + torch.where(positives, distances, 0).sum()
        negative_sum = negative_sum + torch.where(negatives, distances, 0).sum()
        near = distances.neg_().masked_fill_(~negatives, -torch.inf)
        best[0, rows], partner[0, rows] = far.max(1)
        best[1, rows], partner[1, rows] = near.max(1)
    anchors = best.argmax(1)
    partners = partner.gather(1, anchors[:, None])[:, 0]
    return torch.stack([anchors, partners], 1), positive_sum, negative_sum
