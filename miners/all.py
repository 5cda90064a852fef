"""All triplets of a batch, or some of them at random."""

import torch

from core.types import Count
from losses._mined import Pairs, Reference, Triplets
from miners._blocks import blocks_of, check_batch, concatenated
from miners._forms import as_triplets
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("all", gives="triplets")
class AllMiner:
    """Every anchor with every positive and every negative (Open Metric Learning's AllTripletsMiner).

    `triplet_margin` without a miner takes the same triplets and makes no list of them.

    Options:
        max_output_triplets: most triplets of a batch, drawn at random where there are more; 0 is no limit
    """

    def __init__(self, max_output_triplets: Count = 0) -> None:
        self.max_output_triplets = max_output_triplets

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,). Raises InputError for a batch as `check_batch` does."""
        check_batch(labels, reference, "all")
        return as_triplets(all_pairs(embeddings, labels, reference), self.max_output_triplets)


def all_pairs(embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Pairs:
    """Every row with every positive and every negative."""
    # Nothing is measured: one column stands for all.
    column = embeddings[:, :1]
    if reference is not None:
        reference = reference._replace(embeddings=reference.embeddings[:, :1])
    found = []
    for block in blocks_of(column, labels, reference):
        found.append((*block.pairs(block.positives), *block.pairs(block.negatives)))
    return Pairs(*concatenated(found))
