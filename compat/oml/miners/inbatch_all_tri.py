"""All triplets of a batch."""

from sys import maxsize
from typing import Any

import torch

from compat.oml.interfaces.miners import TLabels, TTripletsIds
from compat.oml.miners._by_ours import Mined, MinerByOurs, on_device
from losses._mined import Triplets
from miners.all import AllMiner


class AllTripletsMiner(MinerByOurs):
    """Every anchor with every positive and every negative; some at random where there are more than a number.

    device is taken and has no effect: triplets are where the features are.
    """

    def __init__(self, max_output_triplets: int = maxsize, device: str = "cpu") -> None:
        self.has_limit = max_output_triplets < maxsize
        self.miner = AllMiner(max_output_triplets if self.has_limit else 0)

    def mined(self, features: torch.Tensor, labels: TLabels) -> Mined:
        if self.has_limit:
            return super().mined(features, labels)
        # A loss over all triplets makes no list of them.
        return Mined(features, on_device(labels, features), None)

    def _sample(self, *features: torch.Tensor, labels: TLabels, **further: Any) -> TTripletsIds:
        # They depend on labels alone.
        labels = torch.as_tensor(labels).reshape(-1)
        mined: Triplets = self.triplets(torch.zeros(len(labels), 1), labels)
        return mined.anchors.tolist(), mined.positives.tolist(), mined.negatives.tolist()


def get_available_triplets(labels: TLabels, max_out_triplets: int = maxsize, device: str = "cpu") -> TTripletsIds:
    """Numbers of the rows of all triplets, or of some."""
    return AllTripletsMiner(max_out_triplets, device)._sample(labels=labels)


__all__ = ["AllTripletsMiner", "get_available_triplets"]
