"""Pairs of a batch, each once."""

import torch

from compat.oml._errors import RefusedAssertion, raised_as
from compat.oml.interfaces.miners import TLabels
from compat.oml.miners._by_ours import on_device
from miners.pairs import PairsMiner as DistinctPairs


class PairsMiner:
    """The pairs of the hardest triplets, or all pairs."""

    def __init__(self, hard_mining: bool = True) -> None:
        self.miner = DistinctPairs(hard_mining)

    def sample(self, features: torch.Tensor, labels: TLabels) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Numbers of the rows of P pairs, (P,) twice, and whether a pair is a negative one (P,), these last."""
        with raised_as(RefusedAssertion):
            pairs = self.miner(features, on_device(labels, features))
        first = torch.cat([pairs.positive_anchors, pairs.negative_anchors])
        second = torch.cat([pairs.positives, pairs.negatives])
        is_negative = torch.arange(len(first)) >= len(pairs.positives)
        return first.cpu(), second.cpu(), is_negative


__all__ = ["PairsMiner"]
