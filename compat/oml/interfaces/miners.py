"""What a miner of triplets is asked for."""

from abc import ABC, abstractmethod
from collections import Counter

import torch

from compat.oml._errors import RefusedType, require
from core.text import counted, plural

TLabels = list[int] | torch.Tensor
TTriplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
TTripletsIds = tuple[list[int], list[int], list[int]]


def labels2list(labels: TLabels) -> list[int]:
    """Labels (B,) as a list. Raises RefusedType for what is neither a tensor nor a list."""
    if torch.is_tensor(labels):
        return labels.reshape(-1).tolist()
    if isinstance(labels, list):
        return labels.copy()
    raise RefusedType(f"labels are of the type {type(labels).__name__}; a miner takes a list or a tensor")


class ITripletsMiner(ABC):
    """Gives triplets of embeddings."""

    @abstractmethod
    def sample(self, features: torch.Tensor, labels: TLabels) -> TTriplets:
        """Anchors, positives and negatives, (T, D) each, of features (B, D) and labels (B,)."""


class ITripletsMinerInBatch(ITripletsMiner):
    """Gives triplets of rows of the batch, of which every label occurs twice and two occur."""

    @abstractmethod
    def _sample(self, features: torch.Tensor, labels: list[int]) -> TTripletsIds:
        """Numbers of rows."""

    def sample(self, features: torch.Tensor, labels: TLabels) -> TTriplets:
        labels = labels2list(labels)
        counts = Counter(labels)
        require(
            len(counts) > 1,
            f"all {counted(len(labels), 'row')} {plural(len(labels), 'has', 'have')} one label; a triplet needs two "
            "labels",
        )
        lone = [label for label, count in counts.items() if count == 1]
        require(
            not lone,
            f"label {(lone or [0])[0]} occurs once among {counted(len(labels), 'row')}; a triplet needs two of it",
        )
        anchors, positives, negatives = self._sample(features, labels=labels)
        return features[anchors], features[positives], features[negatives]


__all__ = ["ITripletsMiner", "ITripletsMinerInBatch", "TLabels", "TTriplets", "TTripletsIds", "labels2list"]
