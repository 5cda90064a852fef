"""Each anchor's hardest positives with its hardest negatives, or those of a range of ranks."""

from typing import Literal

import torch

from core.errors import InputError
from core.types import Ranks
from losses._mined import Pairs, Reference, Triplets
from miners._blocks import Block, blocks_of, check_batch, concatenated
from miners._forms import as_triplets
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("nhard", gives="triplets")
class NHardMiner:
    """An anchor's positives from the farthest on, each with its negatives from the nearest on (Open Metric Learning's
    NHardTripletsMiner).

    n says the n hardest; a-b says those from the a-th to the b-th hardest, the first being 1, which leaves out the very
    hardest, that are often labelled wrongly. An anchor with fewer has those that it has.

    Options:
        n_positive: positives of an anchor, n or a-b
        n_negative: negatives of an anchor, n or a-b
        miner_distance: one of euclidean, squared, cosine (1 - cosine)
        miner_normalise: scale embeddings to unit length first (cosine always does)
    """

    def __init__(
        self,
        n_positive: Ranks = 1,
        n_negative: Ranks = 1,
        miner_distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        miner_normalise: bool = False,
    ) -> None:
        self.positive_ranks = first_and_last("n_positive", n_positive)
        self.negative_ranks = first_and_last("n_negative", n_negative)
        self.miner_distance = miner_distance
        self.miner_normalise = miner_normalise

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,). Raises InputError for a batch as `check_batch` does."""
        check_batch(labels, reference, "nhard")
        found = []
        for block in blocks_of(embeddings, labels, reference, self.miner_distance, self.miner_normalise):
            far = torch.where(block.positives, block.distances, -torch.inf)
            near = torch.where(block.negatives, -block.distances, -torch.inf)
            found.append((*ranked(block, far, *self.positive_ranks), *ranked(block, near, *self.negative_ranks)))
        return as_triplets(Pairs(*concatenated(found)))


def ranked(block: Block, hardness: torch.Tensor, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(anchors, columns) of each row's first to last hardest of hardness (m, C), in which -inf is no pair."""
    values, columns = hardness.topk(min(last, hardness.shape[1]), 1)
    rows, ranks = values[:, first - 1 :].isfinite().nonzero(as_tuple=True)
    return rows + block.first, columns[rows, ranks + first - 1]


def first_and_last(name: str, ranks: int | tuple[int, int]) -> tuple[int, int]:
    """(1, n) of n, else the range itself. Raises InputError unless 1 <= first <= last."""
    first, last = (1, ranks) if isinstance(ranks, int) else ranks
    if not 1 <= first <= last:
        raise InputError(f"{name}={ranks} is neither a number of at least 1 nor a range from 1 on such as 2-5")
    return first, last
