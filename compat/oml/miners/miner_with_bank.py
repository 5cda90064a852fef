"""Triplets of a batch and of a bank of earlier ones, anchors being of the batch."""

from typing import Any

import torch

from compat.oml._errors import require
from compat.oml.interfaces.miners import TLabels, TTriplets
from compat.oml.miners._by_ours import Mined, MinerByOurs, on_device
from compat.oml.miners.inbatch_nhard_tri import NHardTripletsMiner
from engine.memory import Memory
from losses._mined import Triplets

OF_BATCH, OF_BANK = 0, -1  # as images: what they show is unknown, so that no row of the bank is one of the batch


class MinerWithBank(MinerByOurs):
    """The miner on the batch and, once it is full, a bank of the rows of so many batches as large as the first one.

    `last_logs` after a call: how many positives and negatives of an anchor are of the bank and of the batch.
    """

    def __init__(
        self, bank_size_in_batches: int = 5, miner: NHardTripletsMiner | None = None, need_logs: bool = True
    ) -> None:
        is_size = isinstance(bank_size_in_batches, int) and bank_size_in_batches >= 1
        require(is_size, f"bank_size_in_batches is {bank_size_in_batches!r}; it is 1 or more")
        miner = NHardTripletsMiner() if miner is None else miner
        require(isinstance(miner, NHardTripletsMiner), f"miner is {type(miner).__name__}; it is NHardTripletsMiner")
        self.bank_size_in_batches = bank_size_in_batches
        self.miner = miner
        self.need_logs = need_logs
        self.bank: Memory | None = None
        self._last_logs: dict[str, float] = {}

    def mined(self, features: torch.Tensor, labels: TLabels) -> Mined:
        """Numbers are those of the batch's rows, and behind them of the bank's."""
        labels = on_device(labels, features)
        if self.bank is None:
            size = self.bank_size_in_batches * len(features)
            self.bank = Memory(size, features.shape[1], features.device)
        reference = None
        if self.bank.count == self.bank.size:
            reference = self.bank.reference(torch.full_like(labels, OF_BATCH))
        triplets = self.miner.miner(features, labels, reference)
        if self.need_logs:
            self._last_logs = _origins(triplets, len(features))
        rows = features
        row_labels = labels
        if reference is not None:
            rows = torch.cat([features, reference.embeddings.to(features.dtype)])
            row_labels = torch.cat([labels, reference.labels])
        self.bank.enter(features, labels, torch.full_like(labels, OF_BANK))
        return Mined(rows, row_labels, triplets)

    def sample(self, features: torch.Tensor, labels: TLabels) -> TTriplets:
        rows, _, chosen = self.mined(features, labels)
        return rows[chosen.anchors], rows[chosen.positives], rows[chosen.negatives]

    @property
    def last_logs(self) -> dict[str, Any]:
        return self._last_logs


def _origins(triplets: Triplets, batch_size: int) -> dict[str, float]:
    """Means over anchors of their different positives and negatives, of the bank and of the batch."""
    anchors = max(1, len(triplets.anchors.unique()))
    logs = {}
    for name, columns in (("positives", triplets.positives), ("negatives", triplets.negatives)):
        pairs = torch.stack([triplets.anchors, columns]).unique(dim=1)
        of_bank = int((pairs[1] >= batch_size).sum())
        logs[f"{name}_from_bank"] = of_bank / anchors
        logs[f"{name}_from_batch"] = (pairs.shape[1] - of_bank) / anchors
    return logs


__all__ = ["MinerWithBank"]
