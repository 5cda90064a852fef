"""OML's triplet losses: of triplets, of rows that lie in triplets, of what a miner makes of a batch."""

from typing import Any

import torch
from torch import nn

from compat.oml._errors import RefusedType, require
from compat.oml.interfaces.criterions import ITripletLossWithMiner
from compat.oml.interfaces.miners import ITripletsMiner, labels2list
from compat.oml.losses._reductions import check_reduction, reduced
from compat.oml.miners import AllTripletsMiner, TripletMinerWithMemory
from compat.oml.miners._by_ours import MinerByOurs
from losses._listed_triplets import losses_of_triplets
from losses.triplet_margin import TripletMarginLoss
from core.text import counted, plural

TLogs = dict[str, float]
NAMES_OF_LOGS = ("active_tri", "pos_dist", "neg_dist")


class TripletLoss(nn.Module):
    """max(0, margin + d(a, p) - d(a, n)), or for the margin None log(1 + exp(d(a, p) - d(a, n))); d is Euclidean."""

    criterion_name = "triplet"

    def __init__(self, margin: float | None, reduction: str = "mean", need_logs: bool = False) -> None:
        super().__init__()
        check_reduction(reduction)
        require(margin is None or margin > 0, f"margin is {margin}; it is above 0, or None for the soft one")
        self.margin = margin
        self.reduction = reduction
        self.need_logs = need_logs
        self._last_logs: dict[str, float] = {}

    def forward(self, anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """The loss of T triplets, (T, D) each."""
        shapes = f"{tuple(anchor.shape)}, {tuple(positive.shape)} and {tuple(negative.shape)}"
        require(anchor.shape == positive.shape == negative.shape, f"a triplet's parts have the shapes {shapes}")
        to_positives = (anchor - positive).norm(dim=1)
        to_negatives = (anchor - negative).norm(dim=1)
        losses = losses_of_triplets(to_positives, to_negatives, self.margin)
        if self.need_logs:
            self._last_logs = {
                "active_tri": (losses > 0).float().mean().item(),
                "pos_dist": to_positives.mean().item(),
                "neg_dist": to_negatives.mean().item(),
            }
        return reduced(losses, self.reduction)

    @property
    def last_logs(self) -> dict[str, Any]:
        return self._last_logs


class TripletLossPlain(nn.Module):
    """TripletLoss of rows anchor, positive, negative, anchor, ..."""

    criterion_name = "triplet"

    def __init__(self, margin: float | None, reduction: str = "mean", need_logs: bool = False) -> None:
        super().__init__()
        self.criterion = TripletLoss(margin, reduction, need_logs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The loss of features (3 T, D)."""
        anchors, positives, negatives = get_tri_ids_in_plain(len(features))
        return self.criterion(features[anchors], features[positives], features[negatives])

    @property
    def last_logs(self) -> dict[str, Any]:
        return self.criterion.last_logs


def get_tri_ids_in_plain(n: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the anchors, positives and negatives among n rows that lie in triplets."""
    require(
        n % 3 == 0,
        f"{counted(n, 'row')} {plural(n, 'is no triplet', 'are no triplets')}; their number is divisible by 3",
    )
    return list(range(0, n, 3)), list(range(1, n, 3)), list(range(2, n, 3))


class TripletLossWithMiner(ITripletLossWithMiner):
    """TripletLoss of the triplets that a miner makes of a batch; without one, of all of them.

    Of the miners here none but the reduction `none` asks for the rows of each triplet, which take memory.
    """

    criterion_name = "triplet"

    def __init__(
        self,
        margin: float | None,
        miner: ITripletsMiner | None = None,
        reduction: str = "mean",
        need_logs: bool = False,
    ) -> None:
        super().__init__()
        self.tri_loss = TripletLoss(margin, "none", need_logs)
        check_reduction(reduction)
        if miner is not None and not hasattr(miner, "sample"):
            raise RefusedType(f"miner is {miner!r}; it is one of compat.oml.miners, or None for all triplets")
        self.miner = AllTripletsMiner() if miner is None else miner
        self.reduction = reduction
        self.need_logs = need_logs
        self._of_numbers = TripletMarginLoss(margin)
        self._last_logs: dict[str, Any] = {}

    def forward(self, features: torch.Tensor, labels: torch.Tensor | list[int]) -> torch.Tensor:
        """The loss of features (B, D) and labels (B,)."""
        if isinstance(self.miner, MinerByOurs) and self.reduction == "mean":
            loss = self._by_numbers(features, labels)
        else:
            loss = self._by_rows(features, labels)
        self._last_logs.update(getattr(self.miner, "last_logs", {}))
        return loss

    def _by_numbers(self, features: torch.Tensor, labels: torch.Tensor | list[int]) -> torch.Tensor:
        mined = self.miner.mined(features, labels)
        loss = self._of_numbers(mined.features, mined.labels, mined=mined.triplets)
        if self.need_logs:
            logs = {name: self._of_numbers.logs[name].item() for name in NAMES_OF_LOGS}
            self._last_logs.update(logs)
        return loss

    def _by_rows(self, features: torch.Tensor, labels: torch.Tensor | list[int]) -> torch.Tensor:
        chosen = self.miner.sample(features=features, labels=labels2list(labels))
        anchor, positive, negative = chosen[:3]
        losses = self.tri_loss(anchor=anchor, positive=positive, negative=negative)
        if self.need_logs and isinstance(self.miner, TripletMinerWithMemory):
            distances = ((anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1))
            self._last_logs.update(_logs_by_origin(losses, *distances, chosen[3]))
        self._last_logs.update(self.tri_loss.last_logs)
        return reduced(losses, self.reduction)

    @property
    def last_logs(self) -> dict[str, Any]:
        return self._last_logs


@torch.no_grad()
def _logs_by_origin(
    losses: torch.Tensor, to_positives: torch.Tensor, to_negatives: torch.Tensor, is_original: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Figures of the triplets of the batch alone, and of those that have rows of the bank; NaN of none."""
    is_original = is_original.to(losses.device)
    logs = {}
    for origin, rows in (("orig", is_original), ("bank", ~is_original)):
        logs[f"{origin}_active_tri"] = (losses[rows] > 0).float().mean()
        logs[f"pos_dist_{origin}"] = to_positives[rows].mean()
        logs[f"neg_dist_{origin}"] = to_negatives[rows].mean()
    return logs


__all__ = ["TLogs", "TripletLoss", "TripletLossPlain", "TripletLossWithMiner", "get_tri_ids_in_plain"]
