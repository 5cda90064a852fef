"""Miners of this repository, which give numbers of rows, as OML's, which give the rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from compat.oml._errors import RefusedAssertion, raised_as, require
from compat.oml.interfaces.miners import ITripletsMinerInBatch, TLabels, TTriplets, TTripletsIds
from losses._mined import Triplets
from core.text import counted


class Mined(NamedTuple):
    """features (C, D) and labels (C,) of which `triplets` are numbers; None for all triplets of them."""

    features: torch.Tensor
    labels: torch.Tensor
    triplets: Triplets | None


class MinerByOurs(ITripletsMinerInBatch):
    """`miner`: one of miners/. refused_as: the kind of exception that OML raises for a batch."""

    miner: Callable[..., Triplets]
    refused_as: type = RefusedAssertion

    def mined(self, features: torch.Tensor, labels: TLabels) -> Mined:
        """What a loss that takes numbers of rows is given."""
        labels = on_device(labels, features)
        return Mined(features, labels, self.triplets(features, labels))

    def triplets(self, features: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Triplets of rows of the batch. Raises RefusedAssertion for a batch that has none."""
        with raised_as(self.refused_as):
            return self.miner(features, labels)

    def sample(self, features: torch.Tensor, labels: TLabels) -> TTriplets:
        labels = on_device(labels, features)
        mined = self.triplets(features, labels)
        return features[mined.anchors], features[mined.positives], features[mined.negatives]

    def _sample(self, features: torch.Tensor, labels: TLabels, *further: Any) -> TTripletsIds:
        mined = self.triplets(features, on_device(labels, features))
        return mined.anchors.tolist(), mined.positives.tolist(), mined.negatives.tolist()


def on_device(labels: TLabels, features: torch.Tensor) -> torch.Tensor:
    """Labels (B,) as a tensor beside the features. Raises RefusedAssertion for another number of them."""
    labels = torch.as_tensor(labels, device=features.device).reshape(-1)
    require(
        len(labels) == len(features), f"{counted(len(features), 'row')} of features, {counted(len(labels), 'label')}"
    )
    return labels
