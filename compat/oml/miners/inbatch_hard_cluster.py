"""Triplets of means of labels."""

import torch

from compat.oml.interfaces.miners import TLabels, TTriplets
from compat.oml.miners._by_ours import Mined, MinerByOurs, on_device
from core.errors import InputError
from miners.hard_cluster import HardClusterMiner as HardClusters


class HardClusterMiner(MinerByOurs):
    """The mean of each label, its farthest row and the nearest other mean; labels have as many rows each."""

    refused_as = InputError

    def __init__(self) -> None:
        self.miner = HardClusters()

    def mined(self, features: torch.Tensor, labels: TLabels) -> Mined:
        labels = on_device(labels, features)
        triplets = self.triplets(features, labels)
        # Means stand behind the rows of the batch.
        return Mined(*self.miner.extended(features, labels), triplets)

    def sample(self, features: torch.Tensor, labels: TLabels) -> TTriplets:
        rows, _, chosen = self.mined(features, labels)
        return rows[chosen.anchors], rows[chosen.positives], rows[chosen.negatives]


__all__ = ["HardClusterMiner"]
