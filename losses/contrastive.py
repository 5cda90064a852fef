"""Contrastive loss (after Hadsell et al., 2006) with the square of the distance in both its terms."""

import torch
from torch import nn

from core.errors import InputError
from losses._checks import check_embeddings, check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("contrastive", stage="pair", batch="pk", memory=True, mined="pairs")
class ContrastiveLoss(nn.Module):
    """Mean over pairs of d^2 for a positive pair and max(0, margin - d^2 + eps)^2 for a negative one.

    d is the Euclidean distance of the raw embeddings, or of unit vectors with `normalise`. `forward` takes all pairs of
    a batch, each once, or those of a miner; `of_pairs` takes pairs as they are given, as a Siamese network sees them.

    Options:
        margin: squared distance that negatives should exceed; of unit vectors 2 - 2 cosine, so 1 is a cosine of 0.5
        eps: small number added within the hinge
        normalise: scale the embeddings to unit length first

    `logs` after a call: active_share (negatives within the margin), mean squared positive_distance and
    negative_distance.
    """

    def __init__(self, margin: float = 1.0, eps: float = 1e-9, normalise: bool = False) -> None:
        super().__init__()
        check_option("margin", margin, 0)
        check_option("eps", eps, 0)
        self.margin = margin
        self.eps = eps
        self.normalise = normalise
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        *,
        reference: Reference | None = None,
        mined: Pairs | None = None,
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        pairs = PairRows(embeddings, labels, reference, mined, unit=self.normalise, distances=True, once=True)
        total, _, active = pairs.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / pairs.counts[1].clamp_min(1), **pairs.mean_scores()}
        return total / pairs.counts.sum().clamp_min(1)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: sums of their pairs' terms (m,), slopes, and how many negatives are within the margin."""
        gaps = (self.margin + self.eps - block.scores).relu_()
        pushed = gaps * block.negatives
        values = (block.scores * block.positives).sum(1) + (pushed * gaps).sum(1)
        active = (gaps.sign_() * block.negatives).sum(1)
        return values, torch.sub(block.positives, pushed, alpha=2), active

    def of_pairs(self, embedding1: torch.Tensor, embedding2: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of pairs of rows (P, D) and (P, D), target (P,) being 1 for the same label and 0 for another.

        Raises InputError for other shapes.
        """
        check_embeddings(embedding1)
        if embedding2.shape != embedding1.shape or target.shape != embedding1.shape[:1]:
            raise InputError(
                f"pairs of shapes {tuple(embedding1.shape)} and {tuple(embedding2.shape)} with targets "
                f"{tuple(target.shape)}; the loss takes (P, D), (P, D) and (P,)"
            )
        first, second = embedding1, embedding2
        if first.dtype.itemsize < 4:
            first, second = first.float(), second.float()
        if self.normalise:
            first, second = normalise(first), normalise(second)
        squared = (first - second).square().sum(1)
        same = target.to(squared)
        gaps = torch.relu(self.margin - squared + self.eps)
        distances = squared.detach()
        negatives = (1 - same).sum().clamp_min(1)
        self.logs = {
            "active_share": ((1 - same) * (gaps.detach() > 0)).sum() / negatives,
            "positive_distance": (same * distances).sum() / same.sum().clamp_min(1),
            "negative_distance": ((1 - same) * distances).sum() / negatives,
        }
        return (same * squared + (1 - same) * gaps.square()).mean()
