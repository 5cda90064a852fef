"""All triplets of a batch, and others at random in which a bank of earlier batches takes part."""

import torch

from compat.oml._errors import require
from compat.oml.interfaces.miners import ITripletsMiner, TLabels
from compat.oml.miners._by_ours import on_device
from compat.oml.miners.inbatch_all_tri import AllTripletsMiner
from engine.memory import Memory


class TripletMinerWithMemory(ITripletsMiner):
    """Beside the n triplets of the batch n (tri_expand_k - 1) at random, less those whose three labels do not fit.

    Of half of these anchor and positive are of the bank, which holds the rows of so many batches, of the other half the
    negative. A bank that holds nothing yet takes no part, nor pairs that it has not.
    """

    def __init__(self, bank_size_in_batches: int, tri_expand_k: int) -> None:
        require(tri_expand_k >= 1, f"tri_expand_k is {tri_expand_k}; it is 1 or more")
        require(bank_size_in_batches >= 1, f"bank_size_in_batches is {bank_size_in_batches}; it is 1 or more")
        self.bank_size_in_batches = bank_size_in_batches
        self.tri_expand_k = tri_expand_k
        self.bank: Memory | None = None

    def sample(self, features: torch.Tensor, labels: TLabels) -> tuple[torch.Tensor, ...]:
        """(anchors, positives, negatives, (T, D) each, whether a triplet is of the batch alone (T,)), those last."""
        labels = on_device(labels, features)
        if self.bank is None:
            size = self.bank_size_in_batches * len(features)
            self.bank = Memory(size, features.shape[1], features.device)
        of_batch = AllTripletsMiner().triplets(features, labels)
        wanted = int(len(of_batch.anchors) * (self.tri_expand_k - 1) / 2)
        # Numbers of the batch's rows, then of the bank's.
        rows = torch.cat([features, self.bank.embeddings[: self.bank.count].to(features.dtype)])
        row_labels = torch.cat([labels, self.bank.labels[: self.bank.count]])
        batch = slice(0, len(features))
        bank = slice(len(features), len(rows))
        portions = [
            _drawn(row_labels, batch, bank, wanted),
            _drawn(row_labels, bank, batch, wanted),
            torch.stack(of_batch),
        ]
        anchors, positives, negatives = torch.cat(portions, dim=1)
        is_original = torch.zeros(len(anchors), dtype=torch.bool)
        is_original[len(anchors) - len(of_batch.anchors) :] = True
        self.bank.enter(features, labels, torch.zeros_like(labels))
        return rows[anchors], rows[positives], rows[negatives], is_original


def _drawn(labels: torch.Tensor, of_pairs: slice, of_negatives: slice, number: int) -> torch.Tensor:
    """(3, at most `number`) numbers of triplets: pairs of one label out of some rows, negatives out of others."""
    inside = labels[of_pairs]
    same = inside[:, None] == inside
    pairs = same.fill_diagonal_(False).nonzero()
    negatives = of_negatives.stop - of_negatives.start
    if not len(pairs) or not negatives:
        return labels.new_zeros(3, 0, dtype=torch.int64)
    chosen = pairs[torch.randint(len(pairs), (number,), device=labels.device)] + of_pairs.start
    others = torch.randint(negatives, (number,), device=labels.device) + of_negatives.start
    triplets = torch.stack([*chosen.T, others])
    return triplets[:, labels[triplets[0]] != labels[others]]


__all__ = ["TripletMinerWithMemory"]
