"""Pairs that are hard against the others of their anchor (Wang et al., 2019, arXiv 1904.06627, section 3.3)."""

from typing import Literal

import torch

from core.types import AtLeastZero
from losses._mined import Pairs, Reference
from miners._blocks import blocks_of, concatenated, farthest, nearest
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("multi_similarity", gives="pairs")
class MultiSimilarityMiner:
    """Positives that are farther than the anchor's nearest negative less epsilon, and negatives that are nearer than
    its farthest positive plus epsilon (equations 8 and 9; pytorch-metric-learning's MultiSimilarityMiner).

    Options:
        miner_epsilon: how much easier a pair may be than the hardest one of the other kind
        miner_distance: one of euclidean, squared, cosine (1 - cosine)
        miner_normalise: scale embeddings to unit length first (cosine always does)
    """

    def __init__(
        self,
        miner_epsilon: AtLeastZero = 0.1,
        miner_distance: Literal["euclidean", "squared", "cosine"] = "cosine",
        miner_normalise: bool = True,
    ) -> None:
        self.miner_epsilon = miner_epsilon
        self.miner_distance = miner_distance
        self.miner_normalise = miner_normalise

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Pairs:
        """Pairs of embeddings (B, D) and labels (B,)."""
        found = []
        for block in blocks_of(embeddings, labels, reference, self.miner_distance, self.miner_normalise):
            # Infinite where there is none of a kind, which no pair of the other kind is hard against.
            far, _ = farthest(block.distances, block.positives)
            near, _ = nearest(block.distances, block.negatives)
            positives = block.positives & (block.distances + self.miner_epsilon > near[:, None])
            negatives = block.negatives & (block.distances - self.miner_epsilon < far[:, None])
            found.append((*block.pairs(positives), *block.pairs(negatives)))
        return Pairs(*concatenated(found))
