"""Negatives that are farther than the positive, but by less than the margin (Schroff et al., 2015, arXiv 1503.03832,
section 3.2)."""

from typing import Literal

import torch

from core.slices import numbers_at_once, slices_within
from core.types import AboveZero
from losses._mined import Reference, TripletRule, Triplets
from losses._pair_distances import BLOCK
from miners._blocks import blocks_of, concatenated
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("semihard", gives="triplets")
class SemihardMiner:
    """All triplets with 0 < d(a, n) - d(a, p) <= miner_margin (pytorch-metric-learning's TripletMarginMiner of the type
    "semihard"). Take the loss's own distance and margin, so that each of these triplets has a loss.

    They may be half of all triplets, gigabytes of a large batch: a loss that takes `rule` needs no list of them.

    Options:
        miner_margin: how much farther the negative may be
        miner_distance: one of euclidean, squared, cosine (1 - cosine)
        miner_normalise: scale embeddings to unit length first (cosine always does)
    """

    def __init__(
        self,
        miner_margin: AboveZero = 0.2,
        miner_distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        miner_normalise: bool = True,
    ) -> None:
        self.miner_margin = miner_margin
        self.miner_distance = miner_distance
        self.miner_normalise = miner_normalise

    @property
    def rule(self) -> TripletRule:
        """Which triplets these are, for a loss that goes through all of them anyway."""
        return TripletRule(self.miner_margin, self.miner_distance, self.miner_normalise)

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,)."""
        found = []
        for block in blocks_of(embeddings, labels, reference, self.miner_distance, self.miner_normalise):
            to_negatives = torch.where(block.negatives, block.distances, torch.inf)
            rows, positives = block.positives.nonzero(as_tuple=True)
            # Each positive pair meets all negatives of its anchor: so many of them at once as there are rows otherwise.
            at_once = numbers_at_once(embeddings.device.type, BLOCK)
            for some in slices_within(len(rows), to_negatives.shape[1], at_once):
                own = block.distances[rows[some], positives[some]]
                gaps = to_negatives[rows[some]] - own[:, None]
                pairs, negatives = ((gaps > 0) & (gaps <= self.miner_margin)).nonzero(as_tuple=True)
                found.append((rows[some][pairs] + block.first, positives[some][pairs], negatives))
        if not found:
            return Triplets(*labels.new_empty(3, 0))
        return Triplets(*concatenated(found))
