"""One positive and one negative an anchor, each hard, semihard or easy (Xuan et al., 2020, arXiv 1904.04370)."""

from typing import Literal

import torch

from core.errors import InputError
from core.types import Interval
from losses._mined import Pairs, Reference
from miners._blocks import Block, blocks_of, concatenated, farthest, nearest
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("easy_positive", gives="pairs")
class EasyPositiveMiner:
    """pytorch-metric-learning's BatchEasyHardMiner.

    Of positives the nearest is easy, the farthest hard, the farthest within the chosen negative's distance semihard; of
    negatives the farthest is easy, the nearest hard, the nearest beyond the chosen positive semihard. Anchors for which
    one of both is missing are left out. `all` takes all of a kind, whose anchors stand for themselves.

    Options:
        pos_strategy: which positive, one of easy, semihard, hard, all
        neg_strategy: which negative, one of easy, semihard, hard, all
        allowed_pos_range: distances low,high of positives that may be chosen (not of all)
        allowed_neg_range: distances low,high of negatives that may be chosen (not of all)
        miner_distance: one of euclidean, squared, cosine (1 - cosine)
        miner_normalise: scale embeddings to unit length first (cosine always does)
    """

    def __init__(
        self,
        pos_strategy: Literal["easy", "semihard", "hard", "all"] = "easy",
        neg_strategy: Literal["easy", "semihard", "hard", "all"] = "semihard",
        allowed_pos_range: Interval | None = None,
        allowed_neg_range: Interval | None = None,
        miner_distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        miner_normalise: bool = True,
    ) -> None:
        strategies = {pos_strategy, neg_strategy}
        if strategies == {"semihard"}:
            raise InputError("pos_strategy and neg_strategy are both semihard, but each needs the other's choice first")
        if strategies == {"semihard", "all"}:
            raise InputError("semihard does not go with all: it is about one pair of the other kind")
        self.pos_strategy = pos_strategy
        self.neg_strategy = neg_strategy
        self.allowed_pos_range = allowed_pos_range
        self.allowed_neg_range = allowed_neg_range
        self.miner_distance = miner_distance
        self.miner_normalise = miner_normalise

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Pairs:
        """Pairs of embeddings (B, D) and labels (B,)."""
        found = []
        for block in blocks_of(embeddings, labels, reference, self.miner_distance, self.miner_normalise):
            found.append(self._pairs_of(block))
        return Pairs(*concatenated(found))

    def _pairs_of(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        distances = block.distances
        positives = block.positives & within(distances, self.allowed_pos_range)
        negatives = block.negatives & within(distances, self.allowed_neg_range)
        choose_positive = nearest if self.pos_strategy == "easy" else farthest
        choose_negative = farthest if self.neg_strategy == "easy" else nearest
        if self.pos_strategy == "semihard":
            to_negative, negative = choose_negative(distances, negatives)
            to_positive, positive = choose_positive(distances, positives & (distances < to_negative[:, None]))
        else:
            to_positive, positive = choose_positive(distances, positives)
            if self.neg_strategy == "semihard":
                negatives &= distances > to_positive[:, None]
            to_negative, negative = choose_negative(distances, negatives)

        has_positive = to_positive.isfinite()
        has_negative = to_negative.isfinite()
        if "all" not in (self.pos_strategy, self.neg_strategy):
            has_positive = has_negative = has_positive & has_negative
        if self.pos_strategy == "all":
            positive_pairs = block.pairs(block.positives)
        else:
            positive_pairs = one_each(block, has_positive, positive)
        if self.neg_strategy == "all":
            negative_pairs = block.pairs(block.negatives)
        else:
            negative_pairs = one_each(block, has_negative, negative)
        return *positive_pairs, *negative_pairs


def within(distances: torch.Tensor, interval: tuple[float, float] | None) -> torch.Tensor | bool:
    """Where distances lie in the interval, its ends included; everywhere where there is none."""
    if interval is None:
        return True
    low, high = interval
    return (distances >= low) & (distances <= high)


def one_each(block: Block, chosen: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(anchors, columns) of the rows of a block that a mask (m,) chooses."""
    rows = chosen.nonzero()[:, 0]
    return rows + block.first, columns[rows]
