"""Each anchor's farthest positive and nearest negative (Hermans et al., 2017, arXiv 1703.07737, "batch hard")."""

from typing import Literal

import torch

from losses._mined import Reference, Triplets
from miners._blocks import blocks_of, check_batch, concatenated, farthest, nearest
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("hard", gives="triplets")
class HardMiner:
    """One triplet an anchor (Open Metric Learning's HardTripletsMiner, pytorch-metric-learning's BatchHardMiner).

    Options:
        miner_distance: one of euclidean, squared, cosine (1 - cosine)
        miner_normalise: scale embeddings to unit length first (cosine always does)
    """

    def __init__(
        self,
        miner_distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        miner_normalise: bool = False,
    ) -> None:
        self.miner_distance = miner_distance
        self.miner_normalise = miner_normalise

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,). Raises InputError for a batch as `check_batch` does."""
        check_batch(labels, reference, "hard")
        found = []
        for block in blocks_of(embeddings, labels, reference, self.miner_distance, self.miner_normalise):
            far, positives = farthest(block.distances, block.positives)
            near, negatives = nearest(block.distances, block.negatives)
            anchors = (far.isfinite() & near.isfinite()).nonzero()[:, 0]
            found.append((anchors + block.first, positives[anchors], negatives[anchors]))
        return Triplets(*concatenated(found))
