"""Each pair once, as whoever compares two images with each other needs them: a re-ranker, say."""

import torch

from losses._mined import Pairs, Reference
from miners._forms import as_pairs
from miners._mining import mining
from miners._registry import MINERS
from miners.all import all_pairs
from miners.hard import HardMiner


@MINERS.register("pairs", gives="pairs")
class PairsMiner:
    """The pairs of the hard triplets, or all pairs, (i, j) and (j, i) being one (Open Metric Learning's PairsMiner).

    Options:
        hard_mining: only each row's farthest positive and nearest negative
    """

    def __init__(self, hard_mining: bool = True) -> None:
        self.hard_mining = hard_mining

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Pairs:
        """Pairs of embeddings (B, D) and labels (B,), the lower number of both first."""
        if self.hard_mining:
            pairs = as_pairs(HardMiner()(embeddings, labels, reference))
        else:
            pairs = all_pairs(embeddings, labels, reference)
        columns = len(embeddings) + (0 if reference is None else len(reference.labels))
        positive = unordered(pairs.positive_anchors, pairs.positives, columns)
        negative = unordered(pairs.negative_anchors, pairs.negatives, columns)
        return Pairs(*positive, *negative)


def unordered(left: torch.Tensor, right: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of numbers below `columns` once, the lower one first, in order."""
    codes = (torch.minimum(left, right) * columns + torch.maximum(left, right)).unique()
    return codes // columns, codes % columns
